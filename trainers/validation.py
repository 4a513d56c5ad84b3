"""Validation on held-out pairs during training, which selects the best model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..losses.adversarial import mean_logit
from ..losses.content import pixel_loss
from ..models.style_code import style_code
from .config import TrainConfig, content_layers
from .networks import Networks, read_squares
from .train_step import Losses

PAIRS = 16
COLUMNS = ("content", "style", "logit_train", "logit_held_out", "logit_stylized")


class Validation:
    """Evaluate the averaged generator at full strength, and D, on fixed held-out pairs.

    Pairs are evaluated one by one and shared by the processes, so that the result does not depend
    on their number.

    Args:
        config: of the run.
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
            read_squares(paths, config.size, PAIRS) for paths in (photos, paintings, trained)
        )
        counts = len(self.photos), len(self.paintings)
        self.pairs = max(counts) if min(*counts, len(self.trained)) else 0

    @torch.no_grad()
    def __call__(
        self, networks: Networks, losses: Losses, accelerator: Accelerator
    ) -> dict[str, float]:
        """Return metrics by name; empty without held-out images.

        ``validation/total`` is the content and style loss, weighted as configured.
        ``validation/memorized`` is the overfitting of D, r_v of Karras et al. 2020, Eq. 1: 0 if
        its logits agree on held-out and training paintings, 1 if they agree on held-out paintings
        and outputs.
        """
        if not self.pairs:
            return {}
        rows = torch.zeros(self.pairs, len(COLUMNS), device=accelerator.device)
        for i in range(accelerator.process_index, self.pairs, accelerator.num_processes):
            with accelerator.autocast():
                rows[i] = self._pair(i, networks, losses, accelerator.device)
        # Each row is zero on all processes but one, so the sum is exact.
        means = accelerator.reduce(rows, "sum").double().mean(0).tolist()
        content, style, logit_train, logit_held_out, logit_stylized = means
        weights = self.config.balance
        metrics = {
            "validation/content": content,
            "validation/style": style,
            "validation/total": weights.content * content + weights.style * style,
        }
        if networks.plain_discriminator is not None and logit_train != logit_stylized:
            memorized = (logit_train - logit_held_out) / (logit_train - logit_stylized)
            metrics["validation/memorized"] = memorized
        return metrics

    def _pair(self, i: int, networks: Networks, losses: Losses, device: torch.device) -> Tensor:
        """Return the values of ``COLUMNS`` for one pair, (5,)."""
        config, encoder = self.config, networks.encoder
        photo, painting, trained = (
            images[i % len(images)].to(device)[None]
            for images in (self.photos, self.paintings, self.trained)
        )  # (1,3,S,S) each
        style = encoder(painting, config.style.layers)
        code = style_code(painting, style)
        image = networks.averaged(photo, code, attend=False).image
        features = encoder(image)
        if config.content.kind == "pixel":
            content = pixel_loss(image, photo)
        else:
            photo_features = encoder(photo, content_layers(config))
            content = losses.content(losses.content.squared_errors(features, photo_features))
        values = [content, losses.style(features, style)]
        if (discriminator := networks.plain_discriminator) is None:
            return torch.cat([*values, torch.zeros(3, device=device)])

        trained_code = style_code(trained, encoder(trained, config.style.layers))
        for x, x_code in ((trained, trained_code), (painting, code), (image, code)):
            standardized = networks.plain_generator.standardize(x_code)
            output = discriminator(x, standardized if config.adversarial.projection else None)
            values.append(mean_logit(output.logits))
        return torch.cat(values)
