"""Generator: one pass from a photo and a style code to the stylized image.

    photo -> stem -> trunk ------------> styled blocks -> up -> to_residual -> residual
                       |  (detached)                                               |
                       +-> attention A              image = f^-1( f(base) + s * residual )

``base`` is the photo, blended by the strength s towards the painting's RGB mean and std; f is a
logit. The residual starts at zero, so training starts from the recolored photo. Where s = 0, the
image is the photo exactly.

Shapes: B batch; H x W the photo; h = ceil(H/8), w = ceil(W/8); C ``width``; D ``style_size``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import ChannelAttention, SpatialAttention
from .normalization import adain, instance_norm, mean_std
from .style_code import COLOR_SIZE, match_color

STRIDE = 8  # of the attention map; photos are padded to a multiple of it
MIN_SIDE = 32
EPS = 0.02  # keeps the logit of [0,1] finite
# Std of a standardized code. Adam moves every weight by about the learning rate, so a layer with
# 2,000 inputs of unit size jumps at each step; with a tenth of that size it does not.
CODE_SCALE = 0.1


class Stylized(NamedTuple):
    """Output of the generator."""

    image: Tensor  # (B,3,H,W) in [0,1]
    attention: Tensor  # (B,1,h,w), mean 1; all ones without an attention branch
    channels: dict[str, Tensor]  # loss layer -> (B,C_l), mean 1; empty without channel attention


def to_logit(image: Tensor) -> Tensor:
    """Return f(x) = logit(EPS + (1 - 2 EPS) x) of an image in [0,1]."""
    return torch.logit(EPS + (1 - 2 * EPS) * image)


def from_logit(x: Tensor) -> Tensor:
    """Return the inverse of ``to_logit``, clamped to [0,1]."""
    return ((torch.sigmoid(x) - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def layout() -> torch.memory_format:
    """Choose channels_last for inference only: it makes the backward of the norms slow."""
    return torch.contiguous_format if torch.is_grad_enabled() else torch.channels_last


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    """Build a 3x3 convolution with reflection padding."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")


class UpsampleConv(nn.Module):
    """Nearest-neighbor upsampling by 2, then a convolution; computed at the small resolution.

    Each of the 2x2 output phases sees a small pixel through several kernel taps at once. Summing
    those taps makes a phase a 3x3 convolution of the small grid: the same function, free of
    checkerboard artifacts, without the upsampled input in memory. ``kernel`` is 3 or 5.
    """

    phases: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        assert kernel in (3, 5)
        self.conv = nn.Conv2d(c_in, c_out, kernel)  # holds the weights
        phases = torch.zeros(2, 3, kernel)  # (phase, small pixel, tap)
        for phase in range(2):
            for tap in range(kernel):
                phases[phase, (phase + tap - kernel // 2) // 2 + 1, tap] = 1
        self.register_buffer("phases", phases, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.einsum("pyu,qxv,oiuv->opqiyx", self.phases, self.phases, self.conv.weight)
        assert self.conv.bias is not None
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")  # (B,C_in,h+2,w+2)
        x = F.conv2d(x, taps.flatten(0, 2), self.conv.bias.repeat_interleave(4))  # (B,4*C_out,h,w)
        return F.pixel_shuffle(x, 2)  # (B,C_out,2h,2w)


class StyledConv(nn.Module):
    """Convolution, then AdaIN with scale and bias from the style (B,4C)."""

    def __init__(self, c_in: int, c_out: int, hidden: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = UpsampleConv(c_in, c_out, 3) if upsample else conv3x3(c_in, c_out)
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
    """Stylize photos, given style codes and a strength.

    Args:
        style_size: length D of the style code.
        width: channels C of the trunk, at a quarter of the resolution.
        blocks: number of styled residual blocks.
        attention: whether to build the attention branch; without it A = 1.
        gates_decoder: mix trunk and styled features by A; with A = 1, half and half.
        gate_trains_attention: let A learn through that mixing (objective ``gate``).
        modulates_strength: use s^A as the strength, which is lower where A is high.
        channels: channel counts of the loss layers, to build channel attention for them.
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
        self.gates_decoder, self.gate_trains_attention = gates_decoder, gate_trains_attention
        self.modulates_strength = modulates_strength
        self.register_buffer("code_mean", torch.zeros(style_size))
        self.register_buffer("code_std", torch.ones(style_size))
        hidden = 4 * width
        self.style = nn.Sequential(
            nn.Linear(style_size + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.stem = conv3x3(48, width)  # 48 = 4x4 pixels x RGB: no convolution runs at full size
        self.trunk = conv3x3(width, width)  # independent of the style, so that A is as well
        self.blocks = nn.ModuleList(StyledBlock(width, hidden) for _ in range(blocks))
        # Without the norm in ``up``, one large early step can kill its ReLUs for good.
        up1 = StyledConv(width, width // 2, hidden, upsample=True)
        up2 = StyledConv(width // 2, width // 4, hidden)
        self.up = nn.ModuleList([up1, up2])
        self.to_residual = UpsampleConv(width // 4, 3, kernel=5)
        for parameter in self.to_residual.parameters():
            nn.init.zeros_(parameter)
        self.attention = SpatialAttention(width) if attention else None
        self.channel_attention = ChannelAttention(width, channels) if channels else None

    def forward(
        self,
        photo: Tensor,
        code: Tensor,
        strength: Tensor | float = 1.0,
        attend: bool = True,
        cond_strength: Tensor | float | None = None,
    ) -> Stylized:
        """Stylize photos.

        Args:
            photo: (B,3,H,W) in [0,1], each side at least 32.
            code: (B,D) style code.
            strength: a number, (B,) or (B,1,H,W), in [0,1].
            attend: compute A; False skips the branch where only the image is needed.
            cond_strength: strength that conditions the network, a number or (B,); by default the
                spatial mean of ``strength``, as in training.
        """
        height, width = photo.shape[-2:]
        trunk = self.encode_photo(photo)  # (B,C,2h,2w)
        attention, channels = self.predict_attention(trunk, attend)  # (B,1,h,w), {l: (B,C_l)}
        s, style = self.condition(photo, code, strength, attention, cond_strength)  # _, (B,4C)
        x = self.styled_blocks(trunk, style, attention)  # (B,C,2h,2w)
        for layer in self.up:
            x = torch.relu_(layer(x, style))  # (B,C/2,4h,4w), then (B,C/4,4h,4w)
        residual = self.to_residual(x)[..., :height, :width]  # (B,3,8h,8w) cut to (B,3,H,W)
        image = self.compose(residual, photo, code, s, mean_std(photo))  # (B,3,H,W)
        return Stylized(image, attention, channels)

    def encode_photo(self, photo: Tensor) -> Tensor:
        """Return trunk features (B,C,2h,2w), which depend on the photo (B,3,H,W) alone."""
        height, width = photo.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(
                f"the photo is {width}x{height} pixels; each side must be at least {MIN_SIDE}"
            )
        # The stem's norm removes the mean as well, but the convolution before it would round a
        # pale photo of low contrast more coarsely.
        x = photo - photo.mean(dim=(2, 3), keepdim=True)  # (B,3,H,W)
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")  # (B,3,8h,8w)
        x = F.pixel_unshuffle(x, 4).contiguous(memory_format=layout())  # (B,48,2h,2w)
        x = torch.relu_(instance_norm(self.stem(x)))  # (B,C,2h,2w)
        return torch.relu_(instance_norm(self.trunk(x)))  # (B,C,2h,2w)

    def predict_attention(
        self, trunk: Tensor, attend: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return A (B,1,h,w) and channel attention {layer: (B,C_l)} from trunk features.

        The features are detached, so that the branch cannot disturb the trunk. ``attend`` False is
        ignored where the image depends on A.
        """
        trunk = trunk.detach()
        attend = attend or self.gates_decoder or self.modulates_strength
        channels = self.channel_attention(trunk) if attend and self.channel_attention else {}
        if self.attention is None or not attend:
            b, _, h, w = trunk.shape
            return trunk.new_ones(b, 1, h // 2, w // 2, dtype=torch.float32), channels
        return self.attention(trunk), channels

    def condition(
        self,
        photo: Tensor,
        code: Tensor,
        strength: Tensor | float,
        attention: Tensor,
        cond_strength: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the strength (B or 1,1,H or 1,W or 1) and the style (B,4C) for the blocks."""
        b, _, height, width = photo.shape
        s = torch.as_tensor(strength, dtype=photo.dtype, device=photo.device)
        s = s.view(-1, 1, 1, 1) if s.dim() < 4 else s  # (B or 1,1,H or 1,W or 1)
        if self.modulates_strength:
            a = F.interpolate(attention.detach(), scale_factor=STRIDE, mode="bilinear")
            s = s ** a[..., :height, :width].clamp_min(1e-6)  # (B,1,H,W); 0^0 would be 1
        if cond_strength is None:
            cond_strength = s.mean(dim=(1, 2, 3))  # (B,) or (1,)
        cond = torch.as_tensor(cond_strength, dtype=photo.dtype, device=photo.device).expand(b)
        return s, self.style(torch.cat([self.standardize(code), cond[:, None]], dim=1))  # (B,4C)

    def styled_blocks(self, trunk: Tensor, style: Tensor, attention: Tensor) -> Tensor:
        """Apply the styled blocks to trunk features (B,C,2h,2w), and the gate if there is one."""
        x = trunk  # (B,C,2h,2w)
        for block in self.blocks:
            x = block(x, style)  # (B,C,2h,2w)
        if not self.gates_decoder:
            return x
        a = attention if self.gate_trains_attention else attention.detach()  # (B,1,h,w)
        a = F.interpolate(a, size=x.shape[-2:], mode="bilinear")  # (B,1,2h,2w)
        gate = a / (1 + a)  # (B,1,2h,2w); 1/2 where A = 1
        return gate * trunk + (1 - gate) * x  # (B,C,2h,2w)

    def compose(
        self,
        residual: Tensor,
        photo: Tensor,
        code: Tensor,
        s: Tensor,
        colors: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Add a residual to the recolored photo, (B,3,H,W) each; pixelwise, so also for tiles.

        ``colors`` are the mean and std (B,3) of the whole photo.
        """
        base = photo + s * (match_color(photo, code, colors) - photo)  # (B,3,H,W)
        return torch.where(s == 0, photo, from_logit(to_logit(base) + s * residual.float()))

    def standardize(self, code: Tensor) -> Tensor:
        """Return codes (B,D) as the networks see them: mean 0, std ``CODE_SCALE``."""
        return CODE_SCALE * (code - self.code_mean) / self.code_std

    def fit_standardization(self, codes: Tensor) -> None:
        """Fit the standardization to the codes (N,D) of training paintings, in place.

        Each std is at least a tenth of the entry's mean magnitude, so that a single painting or a
        channel that is always zero does not divide by zero.
        """
        std = codes.std(dim=0, correction=0)
        self.code_mean.copy_(codes.mean(dim=0))
        self.code_std.copy_(torch.maximum(std, 0.1 * codes.abs().mean(dim=0)).clamp_min(1e-3))


def code_size(channels: Mapping[str, int]) -> int:
    """Return the length D of the style code for style layers with these channel counts."""
    return COLOR_SIZE + 2 * sum(channels.values())
