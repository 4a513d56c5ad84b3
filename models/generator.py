"""The generator: one pass from a photo and a style code to the stylized picture.

    photo -> stem -> trunk ---------------> styled blocks -> decoder -> paint
                       |  (detached)                                      |
                       +-> attention A          stylized = f^-1( f(base) + s * paint )

``base`` is the photo, moved towards the painting's colors by the strength s; ``paint`` starts at
zero, so training starts from a faithful picture and learns brushwork. s = 0 returns the photo.
(Base ``photo`` leaves the colors to the paint as well. With attended strength, s is s^A.)
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import ChannelAttention, SpatialAttention
from .style_code import COLOR_SIZE, match_color, mean_std

STRIDE = 8  # of the attention map; pictures are padded to a multiple of it
MIN_SIDE = 32
EPS = 0.02  # f maps [0,1] to a finite range
CODE_SCALE = 0.1


class Stylized(NamedTuple):
    """What the generator returns."""

    image: Tensor  # (B,3,H,W) in [0,1]
    attention: Tensor  # (B,1,ceil(H/8),ceil(W/8)), mean one; all ones if it was left out
    channels: dict[str, Tensor]  # layer -> (B,C), mean one; empty without channel attention


def to_logit(image: Tensor) -> Tensor:
    """f(x) = logit(eps + (1 - 2 eps) x): pictures in [0,1] to where paint can be added."""
    return torch.logit(EPS + (1 - 2 * EPS) * image)


def from_logit(x: Tensor) -> Tensor:
    """The inverse of ``to_logit``, clamped to [0,1]."""
    return ((torch.sigmoid(x) - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def layout() -> torch.memory_format:
    """channels_last saves the convolutions reordering, but makes the norm's backward slow."""
    return torch.contiguous_format if torch.is_grad_enabled() else torch.channels_last


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A reflection-padded convolution."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, padding_mode="reflect")


def instance_norm(x: Tensor) -> Tensor:
    """Instance norm; as a group norm of one channel a group it is several times faster on CPUs."""
    return F.group_norm(x, x.shape[1])


def adain(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Instance norm of (B,C,h,w), then the style's own scale and bias, (B,C) each."""
    if x.shape[0] == 1:  # they fit into the norm's own affine step: one pass over memory less
        return F.group_norm(x, x.shape[1], 1 + scale[0], bias[0])
    return torch.addcmul(bias[..., None, None], instance_norm(x), 1 + scale[..., None, None])


class UpsampleConv(nn.Module):
    """Resize by two (nearest), then convolve; worked out at the small size.

    In each of the four phases of the large grid, a small pixel is met by several taps of the
    kernel at once: with their sums as kernels of its own, a phase is a 3x3 convolution of the
    small grid. It is the same function, so no checkerboard, without ever holding the large input.

    Args:
        c_in, c_out: channels.
        kernel: 3 or 5, on the large grid.
    """

    phases: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        assert kernel in (3, 5)
        self.conv = nn.Conv2d(c_in, c_out, kernel)
        phases = torch.zeros(2, 3, kernel)  # phase, small pixel, tap
        for phase in range(2):
            for tap in range(kernel):
                phases[phase, (phase + tap - kernel // 2) // 2 + 1, tap] = 1
        self.register_buffer("phases", phases, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.einsum("pyu,qxv,oiuv->opqiyx", self.phases, self.phases, self.conv.weight)
        assert self.conv.bias is not None
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")  # (B,C,h+2,w+2)
        x = F.conv2d(x, taps.flatten(0, 2), self.conv.bias.repeat_interleave(4))  # (B,4*C',h,w)
        return F.pixel_shuffle(x, 2)  # (B,C',2h,2w)


class StyledConv(nn.Module):
    """Convolution, instance norm, and the style's own scale and bias (AdaIN)."""

    def __init__(self, c_in: int, c_out: int, hidden: int, enlarge: bool = False) -> None:
        super().__init__()
        self.conv = UpsampleConv(c_in, c_out, 3) if enlarge else conv(c_in, c_out, 3)
        self.style = nn.Linear(hidden, 2 * c_out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return adain(self.conv(x), *self.style(style).chunk(2, dim=1))


class StyledBlock(nn.Module):
    """Residual block of two styled convolutions."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = StyledConv(width, width, hidden)
        self.conv2 = StyledConv(width, width, hidden)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return x + self.conv2(torch.relu_(self.conv1(x, style)), style)


class Generator(nn.Module):
    """Photo, style code and strength to a ``Stylized``.

    Args:
        style_size: length D of the style code.
        width: channels of the trunk, at a quarter of the resolution.
        blocks: number of styled residual blocks.
        attention: whether it has the attention branch (without it A = 1 everywhere).
        gate: let A mix trunk and styled features in the decoder; without attention, half and half.
        gate_trains_attention: A learns from that mixing (objective ``gate``); else it is mixed in detached.
        modulates_strength: the strength follows A, as s^A: less paint where A is high. A strength of
            0, of 1, and an even map leave everything as it is.
        base: what is painted on: the photo moved by s to the painting's colors (``color``), or
            the ``photo`` as it is.
        channels: loss layers with their channel counts, for channel attention.
    """

    code_mean: Tensor
    code_std: Tensor

    def __init__(
        self,
        style_size: int,
        width: int = 64,
        blocks: int = 5,
        attention: bool = True,
        gates_decoder: bool = False,
        gate_trains_attention: bool = True,
        modulates_strength: bool = False,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        assert attention or not modulates_strength
        hidden = 4 * width
        self.gates_decoder, self.gate_trains_attention = gates_decoder, gate_trains_attention
        self.modulates_strength = modulates_strength
        self.register_buffer("code_mean", torch.zeros(style_size))
        self.register_buffer("code_std", torch.ones(style_size))
        self.style = nn.Sequential(
            nn.Linear(style_size + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        # 4x4 blocks of pixels become 48 channels; no convolution works above half size.
        # results/README.md compares shapes.
        self.stem = conv(48, width, 3)
        self.trunk = conv(width, width, 3)  # free of style: attention reads the photo alone
        self.blocks = nn.ModuleList(StyledBlock(width, hidden) for _ in range(blocks))
        # Normalized like the blocks: without it, one steep step early on kills the ReLUs for good.
        self.up = nn.ModuleList(
            [
                StyledConv(width, width // 2, hidden, enlarge=True),
                StyledConv(width // 2, width // 4, hidden),
            ]
        )
        self.to_residual = UpsampleConv(width // 4, 3, 5)
        for parameter in self.to_residual.parameters():
            nn.init.zeros_(parameter)
        self.attention = SpatialAttention(width) if attention else None
        self.channel_attention = ChannelAttention(width, channels) if channels else None

    def fit_standardization(self, codes: Tensor) -> None:
        """Fit the code's standardization to the training paintings' codes (N,D), in place.

        Each std is floored at a tenth of its entry's mean size, so that a single painting, or
        a channel that never fires, does not blow up.
        """
        std = codes.std(dim=0, correction=0)
        self.code_mean.copy_(codes.mean(dim=0))
        self.code_std.copy_(torch.maximum(std, 0.1 * codes.abs().mean(dim=0)).clamp_min(1e-3))

    def forward(
        self,
        photo: Tensor,
        code: Tensor,
        strength: Tensor | float = 1.0,
        attend: bool = True,
        cond_strength: Tensor | float | None = None,
    ) -> Stylized:
        """Stylize.

        Args:
            photo: (B,3,H,W) in [0,1], each side at least 32.
            code: (B,D) style code.
            strength: a number, (B,) or (B,1,H,W), in [0,1].
            attend: False leaves out the attention branch where only the picture is wanted.
            told: the strength that the network is told, a number or (B,); by default the mean of
                ``strength`` over the picture, as in training.

        Raises:
            ValueError: the photo is smaller than 32 pixels.
        """
        height, width = photo.shape[-2:]
        trunk = self.encode_photo(photo)
        attention, channels = self.predict_attention(trunk.detach(), attend)
        s, style = self.condition(photo, code, strength, attention, cond_strength)
        h = self.styled_blocks(trunk, style, attention)
        for layer in self.up:
            h = torch.relu_(layer(h, style))  # (B,C/2,H/2,W/2), then (B,C/4,H/2,W/2)
        paint = self.to_residual(h)[..., :height, :width]
        return Stylized(self.compose(paint, photo, code, s, mean_std(photo)), attention, channels)

    def condition(
        self,
        photo: Tensor,
        code: Tensor,
        strength: Tensor | float,
        attention: Tensor,
        cond_strength: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The strength as (B or 1,1,H or 1,W or 1), and the style (B,hidden) for the blocks."""
        b, _, height, width = photo.shape
        s = torch.as_tensor(strength, dtype=photo.dtype, device=photo.device)
        s = s.view(-1, 1, 1, 1) if s.dim() < 4 else s
        if self.modulates_strength:
            a = F.interpolate(attention.detach(), scale_factor=STRIDE, mode="bilinear")
            s = s ** a[..., :height, :width].clamp_min(1e-6)  # 0^0 would be 1
        if cond_strength is None:
            cond_strength = s.mean(dim=(1, 2, 3))
        cond_strength = torch.as_tensor(
            cond_strength, dtype=photo.dtype, device=photo.device
        ).expand(b)
        return s, self.style(torch.cat([self.standardize(code), cond_strength[:, None]], dim=1))

    def encode_photo(self, photo: Tensor) -> Tensor:
        """The trunk's features (B,C,H/4,W/4), of the photo alone.

        Raises:
            ValueError: the photo is smaller than 32 pixels.
        """
        height, width = photo.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(
                f"the photo is {width}x{height} pixels; each side must be at least {MIN_SIDE}"
            )
        # The stem's norm takes the mean out anyway, but torch's on channels_last, at the price of
        # digits: six gray levels of a large pale photo.
        x = photo - photo.mean(dim=(2, 3), keepdim=True)
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
        x = F.pixel_unshuffle(x, 4).contiguous(memory_format=layout())  # (B,48,H/4,W/4)
        x = torch.relu_(instance_norm(self.stem(x)))
        return torch.relu_(instance_norm(self.trunk(x)))

    def styled_blocks(self, trunk: Tensor, style: Tensor, attention: Tensor) -> Tensor:
        """The trunk's features through the styled blocks, and the gate if there is one."""
        h = trunk
        for block in self.blocks:
            h = block(h, style)  # (B,C,H/4,W/4)
        if not self.gates_decoder:
            return h
        a = attention if self.gate_trains_attention else attention.detach()
        a = F.interpolate(a, size=h.shape[-2:], mode="bilinear")
        keep = a / (1 + a)  # A = 1 mixes half and half
        return keep * trunk + (1 - keep) * h

    def compose(
        self, paint: Tensor, photo: Tensor, code: Tensor, s: Tensor, colors: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Paint (B,3,H,W) on the base: position by position, so also on a part of the picture.

        ``colors`` are mean and std of the whole photo.
        """
        base = photo + s * (match_color(photo, code, colors) - photo)
        stylized = from_logit(to_logit(base) + s * paint.float())
        return torch.where(s == 0, photo, stylized)

    def standardize(self, code: Tensor) -> Tensor:
        """The code (B,D) in units of the training paintings' spread, scaled down.

        Adam moves every weight alike, so a layer with two thousand inputs of size one leaps at
        each step; at a tenth of that size it learns as fast and without the leaps.
        """
        return CODE_SCALE * (code - self.code_mean) / self.code_std

    def predict_attention(self, trunk: Tensor, attend: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Attention on detached features: it cannot pull the trunk about. What the picture itself
        needs is not left out.
        """
        attend = attend or self.gates_decoder or self.modulates_strength
        channels = self.channel_attention(trunk) if attend and self.channel_attention else {}
        if self.attention is None or not attend:
            b, _, h, w = trunk.shape
            return trunk.new_ones(b, 1, h // 2, w // 2, dtype=torch.float32), channels
        return self.attention(trunk), channels


def code_size(channels: Mapping[str, int]) -> int:
    """Length of the style code for style layers with these channel counts."""
    return COLOR_SIZE + 2 * sum(channels.values())
