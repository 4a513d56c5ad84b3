"""Held-out pairs, looked at from time to time while a run trains: which step was the best."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.images import read_image, square
from ..losses.adversarial import mean_logit
from ..losses.content import pixel_loss
from ..models.style_code import style_code
from .config import TrainConfig, content_layers
from .networks import Networks
from .train_step import Losses

PAIRS = 16
COLUMNS = ("content", "style", "d_train", "d_held_out", "d_stylized")


class Validation:
    """The averaged generator at full strength on fixed held-out pairs, and D's opinion of them.

    Each pair is looked at alone, by the process whose turn it is, so that the figures do not
    depend on the number of processes; every process gets all of them.

    Args:
        photos: held-out photos.
        paintings: held-out paintings.
        trained: training paintings, which D has seen.
    """

    def __init__(
        self,
        config: TrainConfig,
        photos: Sequence[Path],
        paintings: Sequence[Path],
        trained: Sequence[Path],
    ) -> None:
        self.config = config
        self.photos, self.paintings, self.trained = (
            read_readable_squares(paths, config.size, PAIRS)
            for paths in (photos, paintings, trained)
        )
        counts = len(self.photos), len(self.paintings)
        self.pairs = max(counts) if min(counts) else 0

    @torch.no_grad()
    def __call__(
        self, networks: Networks, objectives: Losses, accelerator: Accelerator
    ) -> dict[str, float]:
        """Figures by name; empty where there are no held-out pictures.

        ``validation/total`` is the content and style error, weighed as the config says;
        ``validation/memorized`` is D's overfitting after Karras et al. 2020, Eq. 1, r_v: 0 if it
        sees as much of a painting in held-out as in trained ones, 1 if it takes the former for
        outputs.
        """
        if not self.pairs:
            return {}
        rows = torch.zeros(self.pairs, len(COLUMNS), device=accelerator.device)
        for i in range(accelerator.process_index, self.pairs, accelerator.num_processes):
            with accelerator.autocast():
                rows[i] = self._pair(i, networks, objectives, accelerator.device)
        # The other processes' rows are zero here: their sum is exact.
        means = accelerator.reduce(rows, "sum").double().mean(0).tolist()
        content, style, d_train, d_held_out, d_stylized = means
        weights = self.config.balance
        figures = {
            "validation/content": content,
            "validation/style": style,
            "validation/total": weights.content * content + weights.style * style,
        }
        if networks.plain_discriminator is not None and d_train != d_stylized:
            memorized = (d_train - d_held_out) / (d_train - d_stylized)
            figures["validation/memorized"] = memorized
        return figures

    def _pair(self, i: int, networks: Networks, objectives: Losses, device: torch.device) -> Tensor:
        """One pair's values of ``COLUMNS``."""
        config, encoder = self.config, networks.encoder
        photo, painting, trained = (
            pictures[i % len(pictures)].to(device)[None]
            for pictures in (self.photos, self.paintings, self.trained)
        )
        style = encoder(painting, config.style.layers)
        code = style_code(painting, style)
        image = networks.averaged(photo, code, attend=False).image
        features = encoder(image)
        if config.content.kind == "pixel":
            content = pixel_loss(image, photo)
        else:
            kept = encoder(photo, content_layers(config))
            content = objectives.content(objectives.content.squared_errors(features, kept))
        errors = [content, objectives.style(features, style)]
        if (extractor := networks.plain_discriminator) is None:
            return torch.cat([*errors, torch.zeros(3, device=device)])

        trained_code = style_code(trained, encoder(trained, config.style.layers))
        for picture, its_code in ((trained, trained_code), (painting, code), (image, code)):
            standard = networks.plain_generator.standardize(its_code)
            verdict = extractor(picture, standard if config.adversarial.projection else None)
            errors.append(mean_logit(verdict.logits))
        return torch.cat(errors)


def read_readable_squares(paths: Sequence[Path], size: int, most: int) -> Tensor:
    """The first pictures that can be read, at most so many, (N,3,size,size) in [0,1]."""
    squares: list[Tensor] = []
    for path in paths:
        if len(squares) == most:
            break
        try:
            squares.append(square(read_image(path, at_least=size), size))
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return torch.stack(squares) if squares else torch.zeros(0, 3, size, size)
