"""Validation on held-out pairs during training, which selects the best model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..losses.adversarial import fraction_real, mean_logit
from ..losses.attention import correlation, learns_error
from ..losses.content import pixel_loss
from ..models.style_code import style_code
from .balance import Balance
from .config import TrainConfig, content_layers
from .networks import Networks, readable_squares
from .train_step import Losses, mean_log_error, style_features

PAIRS = 16
COLUMNS = (
    "content", "style", "prediction", "logit_train", "logit_held_out", "logit_stylized", "accuracy",
)  # fmt: skip
CODES = 8  # of training paintings, over which the error of a held-out photo is averaged


class Validation:
    """Evaluate the averaged generator at full strength, and D, on fixed held-out pairs.

    Pairs are evaluated one by one and shared by the processes, so that the result does not depend
    on their number. D has seen the ``trained`` paintings.
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
            readable_squares(paths, config.size, PAIRS) for paths in (photos, paintings, trained)
        )
        counts = len(self.photos), len(self.paintings)
        self.pairs = max(counts) if min(*counts, len(self.trained)) else 0

    @torch.no_grad()
    def __call__(
        self, networks: Networks, losses: Losses, accelerator: Accelerator
    ) -> dict[str, float]:
        """Return metrics by name; empty without held-out images.

        ``validation/total`` is the sum of content and style loss, with the weights at the end of
        the run. Under gradient balance these depend on the step and the configured numbers are
        shares, so it is the product of the losses to the power of their shares: a relative change
        of a loss counts by its share.
        ``validation/prediction`` is the correlation of the log error that the attention branch
        predicts from a photo with the one measured over ``CODES`` training paintings.
        ``validation/memorized`` is the overfitting of D, r_v of Karras et al. 2020, Eq. 1: 0 if
        its logits agree on held-out and training paintings, 1 if they agree on held-out paintings
        and outputs. ``validation/accuracy`` is D's accuracy over patches of held-out paintings
        and outputs for held-out photos.
        """
        if not self.pairs:
            return {}
        rows = torch.zeros(self.pairs, len(COLUMNS), device=accelerator.device)
        for i in range(accelerator.process_index, self.pairs, accelerator.num_processes):
            with accelerator.autocast():
                rows[i] = self._pair(i, networks, losses, accelerator.device)
        # Each row is zero on all processes but one, so the sum is exact.
        means = accelerator.reduce(rows, "sum").cpu().double().mean(0).tolist()
        content, style, prediction, logit_train, logit_held_out, logit_stylized, accuracy = means
        balance = self.config.balance
        weights = Balance(balance, torch.device("cpu")).weights(1.0)  # no norms: the shares
        c, s = weights["content"].item(), weights["style"].item()
        total = c * content + s * style
        if balance.kind == "gradient":
            total = content**c * style**s
        metrics = {
            "validation/content": content, "validation/style": style, "validation/total": total,
        }  # fmt: skip
        if learns_error(self.config.attention.objective):
            metrics["validation/prediction"] = prediction
        if networks.plain_discriminator is not None:
            metrics["validation/accuracy"] = accuracy
            if logit_train != logit_stylized:
                memorized = (logit_train - logit_held_out) / (logit_train - logit_stylized)
                metrics["validation/memorized"] = memorized
        return metrics

    def _pair(self, i: int, networks: Networks, losses: Losses, device: torch.device) -> Tensor:
        """Return the values of ``COLUMNS`` for one pair, (7,)."""
        config, encoder = self.config, networks.encoder
        photo, painting, trained = (
            images[i % len(images)].to(device)[None]
            for images in (self.photos, self.paintings, self.trained)
        )  # (1,3,S,S) each
        style = style_features(encoder, painting, config)
        code = style_code(painting, style[0])
        learns = learns_error(config.attention.objective)
        trunk = networks.averaged.encode_photo(photo)
        output = networks.averaged(photo, code, attend=learns, trunk=trunk)
        image = output.image
        features = encoder(image)
        if config.content.kind == "pixel":
            content = pixel_loss(image, photo)
        else:
            photo_features = encoder(photo, content_layers(config))
            content = losses.content(losses.content.squared_errors(features, photo_features))
        prediction = torch.zeros(1, device=device)
        if learns:
            assert networks.codes is not None
            codes = networks.codes[:CODES, None]
            error = mean_log_error(networks.averaged, photo, codes, trunk=trunk)
            prediction = correlation(output.predicted.positions, error)
        distance = losses.style(style_features(encoder, image, config, features), style)
        values = [content, distance, prediction]
        if (discriminator := networks.plain_discriminator) is None:
            return torch.cat([*values, torch.zeros(4, device=device)])

        trained_code = style_code(trained, encoder(trained, config.style.layers))
        a, logits = config.adversarial, []
        for x, x_code in ((trained, trained_code), (painting, code), (image, code)):
            standardized = networks.plain_generator.standardize(x_code)
            logits.append(discriminator(x, standardized if a.projection else None).logits)
        real, fake = (fraction_real(x, a.gan_loss) for x in logits[1:])
        return torch.cat([*values, *map(mean_logit, logits), (real + 1 - fake) / 2])
