"""PatchGAN discriminator (Isola et al. 2017), conditioned on the style code by projection."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized


class DiscriminatorOutput(NamedTuple):
    """Patch logits and the hidden features that lead to them."""

    logits: Tensor  # (B,1,h,w)
    features: list[Tensor]  # hidden layers, shallow to deep, each (B,C,h,w)


class PatchGAN(nn.Module):
    """Classify overlapping patches of images (B,3,H,W) in [0,1] as painting or output.

    The module stays in eval mode, see ``advance_spectral_norm``.

    Args:
        width: channels of the first convolution.
        layers: strided convolutions; 3 gives a receptive field of 70x70 pixels.
        spectral_norm: spectral norm (Miyato et al. 2018) of every weight, instead of instance
            norm from the second layer on. Never BatchNorm, which couples the images of a batch.
        style_size: length D of the style code to condition on, or None.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        spectral_norm: bool = False,
        style_size: int | None = None,
    ) -> None:
        super().__init__()
        widths = [3] + [width * min(2**i, 8) for i in range(layers + 1)]
        strides = [2] * layers + [1]
        wrap = parametrizations.spectral_norm if spectral_norm else (lambda module: module)
        self.convs = nn.ModuleList(
            wrap(nn.Conv2d(c_in, c_out, 4, stride, padding=1))
            for c_in, c_out, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.instance_norm = not spectral_norm
        self.head = wrap(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.embed = wrap(nn.Linear(style_size, widths[-1])) if style_size else None
        self.min_side = 2  # of the last features: instance norm maps a single position to 0
        for stride in reversed(strides):
            self.min_side = (self.min_side - 1) * stride + 4 - 2  # kernel 4, padding 1
        self.eval()

    def forward(self, image: Tensor, style: Tensor | None = None) -> DiscriminatorOutput:
        """Return logits and features of images (B,3,H,W), given style codes (B,D) if conditional.

        Raises:
            ValueError: the image is smaller than ``min_side``.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ValueError(
                f"the image is {width}x{height} pixels; the discriminator needs at least "
                f"{self.min_side} a side: use larger images or fewer layers"
            )
        x, features = image * 2 - 1, []
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.leaky_relu(F.instance_norm(x) if self.instance_norm and i > 0 else x, 0.2)
            features.append(x)
        logits = self.head(x)  # (B,1,h,w)
        if self.embed is not None:
            assert style is not None
            # Projection (Miyato & Koyama 2018), averaged from (h+1)x(w+1) positions to h x w
            match = torch.einsum("bchw,bc->bhw", x, self.embed(style)) / x.shape[1] ** 0.5
            logits = logits + F.avg_pool2d(match[:, None], 2, stride=1)
        return DiscriminatorOutput(logits, features)

    @torch.no_grad()
    def advance_spectral_norm(self) -> None:
        """Run one power iteration per normalized weight; call it once after each update.

        In train mode torch would run one in every forward pass, so that the number of
        micro-batches would change the weights. In eval mode a forward pass changes nothing.
        """
        self.train()
        for module in self.modules():
            if is_parametrized(module, "weight"):
                module.weight  # noqa: B018 - the access runs the power iteration
        self.eval()
