"""PatchGAN: each output judges one patch of the picture (Isola et al. 2017), multi-scale option."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized


class DiscriminatorOutput(NamedTuple):
    """What the discriminator says, one entry per scale."""

    logits: list[Tensor]  # (B,1,h,w)
    features: list[list[Tensor]]  # the hidden layers, shallow to deep, (B,C,h,w)


def receptive_field(layers: int) -> int:
    """Side in pixels of the patch that one output of ``layers`` strided convolutions sees."""
    field = 1
    for stride in reversed(_strides(layers)):
        field = field * stride + (4 - stride)  # kernel 4: r_in = (r_out - 1) * stride + 4
    return field


def minimum_side(layers: int, scales: int) -> int:
    """The smallest picture that every scale can judge."""
    side = 2  # the last feature map must keep two positions, or instance norm erases it
    for stride in reversed(_strides(layers)[:-1]):
        side = (side - 1) * stride + 4 - 2  # kernel 4, padding 1
    return side * 2 ** (scales - 1)


def _strides(layers: int) -> list[int]:
    return [2] * layers + [1, 1]


class _Patches(nn.Module):
    """The PatchGAN of one scale."""

    def __init__(self, width: int, layers: int, spectral: bool, style_size: int | None) -> None:
        super().__init__()
        widths = [3] + [width * min(2**i, 8) for i in range(layers + 1)]
        wrap = spectral_norm if spectral else (lambda module: module)
        self.convs = nn.ModuleList(
            wrap(nn.Conv2d(c_in, c_out, 4, stride, padding=1))
            for c_in, c_out, stride in zip(widths, widths[1:], _strides(layers), strict=False)
        )
        self.norm = not spectral  # one or the other; never BatchNorm, which couples images
        self.head = wrap(nn.Conv2d(widths[-1], 1, 4, 1, padding=1))
        self.embed = wrap(nn.Linear(style_size, widths[-1])) if style_size else None

    def forward(self, x: Tensor, style: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        features = []
        for i, layer in enumerate(self.convs):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if self.norm and i > 0 else x, 0.2)
            features.append(x)
        logits = self.head(x)  # (B,1,h,w)
        if self.embed is not None:
            assert style is not None
            # Projection discriminator (Miyato & Koyama 2018): does this patch fit this painting?
            fit = torch.einsum("bchw,bc->bhw", x, self.embed(style)) / x.shape[1] ** 0.5
            logits = logits + F.avg_pool2d(fit[:, None], 2, stride=1)
        return logits, features


class PatchGAN(nn.Module):
    """Pictures (B,3,H,W) in [0,1], optionally with style codes (B,D), to a ``Verdict``.

    Args:
        width: channels of the first convolution.
        layers: strided convolutions; 3 gives the 70x70 receptive field.
        scales: 1-3; each further scale judges the picture at half the size.
        spectral: spectral normalization (Miyato et al. 2018) instead of instance norm.
        style_size: length of the style code to condition on by projection, or None.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        scales: int = 1,
        spectral: bool = True,
        style_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= scales <= 3:
            raise ValueError(f"the discriminator takes 1 to 3 scales, not {scales}")
        self.min_side = minimum_side(layers, scales)
        self.scales = nn.ModuleList(
            _Patches(width, layers, spectral, style_size) for _ in range(scales)
        )

        self.eval()  # see advance_spectral_norm

    @torch.no_grad()
    def advance_spectral_norm(self) -> None:
        """One power iteration of every normalized weight, to be called once after each update.

        torch makes one in every forward in train mode: then the number of forwards, and so of
        micro-batches, would change the weights. Here no forward changes anything.
        """
        self.train()
        for module in self.modules():
            if is_parametrized(module, "weight"):
                module.weight  # noqa: B018 - looking at it iterates
        self.eval()

    def forward(self, image: Tensor, style: Tensor | None = None) -> DiscriminatorOutput:
        """Judge.

        Raises:
            ValueError: the picture is too small for the receptive field or the scales.
        """
        if min(image.shape[-2:]) < self.min_side:
            raise ValueError(
                f"the discriminator with {len(self.scales)} scale(s) needs pictures of at least "
                f"{self.min_side} pixels a side, got {image.shape[-1]}x{image.shape[-2]}; "
                "use larger pictures, fewer scales or fewer layers"
            )
        x = image * 2 - 1
        verdicts = []
        for i, patches in enumerate(self.scales):
            x = F.avg_pool2d(x, 2) if i else x
            verdicts.append(patches(x, style))
        return DiscriminatorOutput(
            [logits for logits, _ in verdicts], [features for _, features in verdicts]
        )
