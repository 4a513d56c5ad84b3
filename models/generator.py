"""Generator: one pass from a photo and a style code to the stylized image.

    photo -> stem, trunk4 -> down, trunk8 -> styled blocks -> up1 (+) fine -> up2, up3 -> residual
                  |                |                               ^
                  |                +-> attention A (detached)      |
                  +------------------------> skip -----------------+

    image = f^-1( base + s * residual )

f is a logit. ``base`` is f(photo), moved by the strength s towards the painting's colors. The
residual starts at zero, so training starts from the recolored photo. Where s = 0, the image is the
photo exactly. For larger strokes, the residual of a reduced photo is enlarged; the base, which
holds the photo's detail, is always computed at full size.

Shapes: B batch; H x W the photo; h = ceil(H/8), w = ceil(W/8); C ``width``; D ``style_size``.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import ChannelAttention, PredictedError, SpatialAttention, attention_map
from .color import (
    COLOR_SIZE,
    color_statistics,
    from_logit,
    recolor,
    to_logit,
    total_variance,
    without_covariance,
)
from .normalization import adain, instance_norm

STRIDE = 8  # of the attention map; photos are padded to a multiple of it
MIN_SIDE = 32
# Std of a standardized code. Adam moves every weight by about the learning rate, so a layer with
# 2,000 inputs of unit size jumps at each step; with a tenth of that size it does not.
CODE_SCALE = 0.1
NOISE_SIDE = 128  # period of the noise field, in positions
NOISE_SEED = 7
# Std of a photo's logits below which the residual fades. Of 1,120 photos the flattest has 0.33.
FLAT_STD = 0.1

Base = Literal["covariance", "channelwise", "none"]


class Stylized(NamedTuple):
    """Output of the generator."""

    image: Tensor  # (B,3,H,W) in [0,1]
    attention: Tensor  # A (B,1,h,w), mean 1; all ones without an attention branch
    predicted: PredictedError  # from which A is made


def layout() -> torch.memory_format:
    """Choose channels_last for inference only: it makes the backward of the norms slow."""
    return torch.contiguous_format if torch.is_grad_enabled() else torch.channels_last


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution with reflection padding."""
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, padding_mode="reflect")


def make_noise_field() -> Tensor:
    """Return the fixed standard normal noise (NOISE_SIDE,NOISE_SIDE)."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(NOISE_SIDE, NOISE_SIDE, generator=generator, device="cpu")


def reduce_photo(photo: Tensor, stroke_size: float) -> Tensor:
    """Reduce photos (B,3,H,W) by ``stroke_size`` >= 1, for ``Generator.forward``.

    Raises:
        ValueError: a side would be shorter than ``MIN_SIDE``.
    """
    height, width = photo.shape[-2:]
    size = round(height / stroke_size), round(width / stroke_size)
    if min(size) < MIN_SIDE:
        largest = min(height, width) // MIN_SIDE
        raise ValueError(
            f"stroke size {stroke_size:g} reduces the photo to {size[1]}x{size[0]} pixels; each "
            f"side must be at least {MIN_SIDE}: use "
            + (f"{largest} or less" if largest else "a larger photo")
        )
    return F.interpolate(photo, size, mode="bilinear", antialias=True)


def fit_to_photo(x: Tensor, photo: Tensor, reduced: Tensor | None) -> Tensor:
    """Cut the padding off maps (B,C,8h,8w); enlarge those of a reduced photo to (B,C,H,W)."""
    height, width = (photo if reduced is None else reduced).shape[-2:]
    x = x[..., :height, :width]
    return x if reduced is None else F.interpolate(x, photo.shape[-2:], mode="bilinear")


def _as_map(strength: Tensor | float, photo: Tensor) -> Tensor:
    """Return a number, (B,) or (B,1,H,W) with four dimensions, in the photo's dtype."""
    if not isinstance(strength, Tensor):
        return photo.new_full((1, 1, 1, 1), strength)  # ``as_tensor`` would wait for the device
    s = strength.to(photo)
    return s.view(-1, 1, 1, 1) if s.dim() < 4 else s


class UpsampleConv(nn.Module):
    """Nearest-neighbor upsampling by 2, then a convolution; computed at the small resolution.

    Upsampling is a transposed convolution of stride 2 with a kernel of 2x2 ones. Followed by a
    convolution, it is one with the kernel convolved with these ones (Karras et al. 2018, fused
    scale): the same function, free of checkerboard artifacts, without the upsampled input.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        assert kernel in (3, 5)
        self.conv = nn.Conv2d(c_in, c_out, kernel)  # holds the weights

    def forward(self, x: Tensor) -> Tensor:
        bias, w = self.conv.bias, self.conv.weight.flip(2, 3).transpose(0, 1)
        assert bias is not None
        w = F.pad(w, (1, 1, 1, 1))
        w = w[..., 1:, 1:] + w[..., 1:, :-1] + w[..., :-1, 1:] + w[..., :-1, :-1]
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")  # (B,C_in,h+2,w+2)
        if self.conv.kernel_size == (3, 3):
            return F.conv_transpose2d(x, w, bias, stride=2, padding=3)  # (B,C_out,2h,2w)
        # The same as a convolution for each of the 2x2 phases of the output: faster for few
        # channels. With a kernel of 3, five of nine taps would be zero.
        phases = rearrange(w, "i o (y p) (x q) -> (o p q) i y x", p=2, q=2).flip(2, 3)
        return F.pixel_shuffle(F.conv2d(x, phases, bias.repeat_interleave(4)), 2)


class StyledConv(nn.Module):
    """Convolution, then AdaIN with a scale and bias per channel from the style (B,3C), and noise.

    Without noise, a translation-equivariant network can only paint a flat area with a constant, or
    with a pattern that has the period of its strides. The noise gain, also per channel and from
    the style, starts at zero. ``noise`` False leaves it out.
    """

    def __init__(
        self, c_in: int, c_out: int, hidden: int, upsample: bool = False, noise: bool = True
    ) -> None:
        super().__init__()
        self.conv = UpsampleConv(c_in, c_out, 3) if upsample else conv3x3(c_in, c_out)
        self.style = nn.Linear(hidden, (3 if noise else 2) * c_out)  # scale, bias and noise gain
        with torch.no_grad():
            self.style.weight[2 * c_out :] = 0
            self.style.bias[2 * c_out :] = 0

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        return self.apply_style(self.conv(x), style, noise)

    def apply_style(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Normalize (B,C,h,w), then apply the style's scale, bias and noise gain."""
        c, (h, w) = x.shape[1], x.shape[2:]
        scale, bias, *gain = self.style(style).split(c, dim=1)  # (B,C) each
        x = adain(x, scale, bias)
        if noise is None or not gain:
            return x
        return x.addcmul_(gain[0][..., None, None], noise[..., :h, :w].to(x.dtype))


class StyledBlock(nn.Module):
    """Residual block of two styled convolutions."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = StyledConv(width, width, hidden)
        self.conv2 = StyledConv(width, width, hidden)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        return x + self.conv2(torch.relu_(self.conv1(x, style, noise)), style, noise)


class Generator(nn.Module):
    """Stylize photos, given style codes and a strength.

    The trunk and most styled blocks run at 1/8 resolution with C channels; a skip brings the
    photo's features at 1/4 (C/2 channels) to one more block there, and two upsampling convolutions
    lead to the full resolution.

    Args:
        style_size: length D of the style code.
        width: channels C at 1/8 resolution, a multiple of 4.
        blocks: number of styled residual blocks at 1/8 resolution.
        noise: add noise with a style-predicted gain to each styled convolution, except the skip;
            the parameters are the same without, so that a model can go on without its noise.
        base: what the residual is added to: the photo with the painting's color mean and
            covariance, with its mean and standard deviation per opponent axis, or the photo itself.
        attention: whether to build the attention branch; without it A = 1.
        budget: ρ of the attention map, in nats.
        gates_decoder: mix trunk and styled features by A; with A = 1, half and half.
        gate_trains_attention: let A learn through that mixing (objective ``gate``).
        modulates_strength: use s^A as the strength, which is lower where A is high.
        channels: channel counts of the loss layers, to build channel attention for them.
    """

    code_mean: Tensor
    code_std: Tensor

    noise_field: Tensor

    def __init__(
        self,
        style_size: int,
        width: int,
        blocks: int,
        noise: bool = True,
        base: Base = "covariance",
        attention: bool = True,
        budget: float = 0.5,
        gates_decoder: bool = False,
        gate_trains_attention: bool = True,
        modulates_strength: bool = False,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        assert attention or not modulates_strength
        self.noise, self.base, self.budget = noise, base, budget
        self.gates_decoder, self.gate_trains_attention = gates_decoder, gate_trains_attention
        self.modulates_strength = modulates_strength
        self.register_buffer("code_mean", torch.zeros(style_size))
        self.register_buffer("code_std", torch.ones(style_size))
        self.register_buffer("noise_field", make_noise_field(), persistent=False)
        half, hidden = width // 2, 3 * width
        self.style = nn.Sequential(
            nn.Linear(style_size + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        # The trunk is independent of the style, so that A is as well.
        self.stem = conv3x3(48, half)  # 48 = 4x4 pixels x RGB: no convolution runs at full size
        self.trunk4 = conv3x3(half, half)
        self.down = conv3x3(half, width, stride=2)
        self.trunk8 = conv3x3(width, width)
        self.blocks = nn.ModuleList(StyledBlock(width, hidden) for _ in range(blocks))
        self.up1 = StyledConv(width, half, hidden, upsample=True)
        self.skip = StyledConv(half, half, hidden, noise=False)
        self.fine = StyledBlock(half, hidden)
        # Without the norm in ``up2`` and ``up3``, one large early step can kill their ReLUs.
        self.up2 = StyledConv(half, half // 2, hidden, upsample=True)
        self.up3 = StyledConv(half // 2, half // 2, hidden)
        self.to_residual = UpsampleConv(half // 2, 3, kernel=5)
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
        cond_strength: Tensor | float = 1.0,
        noise_offset: Tensor | None = None,
        reduced: Tensor | None = None,
        trunk: tuple[Tensor, Tensor] | None = None,
    ) -> Stylized:
        """Stylize photos.

        Args:
            photo: (B,3,H,W) in [0,1], each side at least 32.
            code: (B,D) style code.
            strength: a number, (B,) or (B,1,H,W), in [0,1].
            attend: compute A; False skips the branch where only the image is needed.
            cond_strength: strength that conditions the network: a number, (B,), or the mean of
                (B,1,H,W). Training passes ``strength``. In use it is 1: fading the result of full
                strength keeps more of the photo at the same style (docs/comparison.md). With
                ``modulates_strength`` it becomes the mean of cond_strength^A.
            noise_offset: (B,2) in [0,1), shifts the noise of each image; random in training, by
                default 0.
            reduced: the photo at the size at which strokes are painted, by default its own; h and w
                are then those of ``reduced``. See ``reduce_photo``.
            trunk: output of ``encode_photo``, to stylize the same photos repeatedly.
        """
        small = photo if reduced is None else reduced
        x4, x8 = trunk or self.encode_photo(small)  # (B,C/2,2h,2w), (B,C,h,w)
        attention, predicted = self.predict_attention(small, x4, x8, attend)  # (B,1,h,w), _
        s, style = self.condition(photo, code, strength, attention, cond_strength, reduced)
        noise = self.make_noise(x8, noise_offset)  # (B or 1,1,4h,4w)
        x = self.styled_blocks(x4, x8, style, attention, noise)  # (B,C/2,2h,2w)
        x = torch.relu_(self.up2(x, style, noise))  # (B,C/4,4h,4w)
        x = torch.relu_(self.up3(x, style, noise))  # (B,C/4,4h,4w)
        residual = fit_to_photo(self.to_residual(x), photo, reduced)  # (B,3,8h,8w) to (B,3,H,W)
        image = self.compose(residual, photo, code, s, color_statistics(photo))  # (B,3,H,W)
        return Stylized(image, attention, predicted)

    def encode_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Return trunk features (B,C/2,2h,2w) and (B,C,h,w), which depend on the photo alone."""
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
        x = torch.relu_(instance_norm(self.stem(x)))  # (B,C/2,2h,2w)
        x4 = torch.relu_(instance_norm(self.trunk4(x)))  # (B,C/2,2h,2w)
        x = torch.relu_(instance_norm(self.down(x4)))  # (B,C,h,w)
        x8 = torch.relu_(instance_norm(self.trunk8(x)))  # (B,C,h,w)
        return x4, x8

    def predict_attention(
        self, photo: Tensor, x4: Tensor, x8: Tensor, attend: bool = True
    ) -> tuple[Tensor, PredictedError]:
        """Return A (B,1,h,w), and the errors it is made from.

        Takes photos (B,3,H,W) and their trunk features (B,C/2,2h,2w) and (B,C,h,w).

        The features are detached, so that the branch cannot disturb the trunk. ``attend`` False is
        ignored where the image depends on A.
        """
        x4, x8 = x4.detach(), x8.detach()
        attend = attend or self.gates_decoder or self.modulates_strength
        channels = self.channel_attention(x8) if attend and self.channel_attention else {}
        if self.attention is None or not attend:
            ones = torch.ones_like(x8[:, :1], dtype=torch.float32)
            return ones, PredictedError(torch.zeros_like(ones), channels)
        log_error = self.attention(photo, x4, x8)  # (B,1,h,w)
        return attention_map(log_error, self.budget), PredictedError(log_error, channels)

    def condition(
        self,
        photo: Tensor,
        code: Tensor,
        strength: Tensor | float,
        attention: Tensor,
        cond_strength: Tensor | float = 1.0,
        reduced: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the strength (B or 1,1,H or 1,W or 1) and the style (B,3C) for the blocks."""
        b = photo.shape[0]  # ``len`` would fix the batch size in an exported model
        s = _as_map(strength, photo)  # (B or 1,1,H or 1,W or 1)
        cond_map = _as_map(cond_strength, photo)  # (B or 1,1,H or 1,W or 1)
        if self.modulates_strength:
            a = F.interpolate(attention.detach(), scale_factor=STRIDE, mode="bilinear")
            a = fit_to_photo(a, photo, reduced).clamp_min(1e-6)  # (B,1,H,W); 0^0 would be 1
            s, cond_map = s**a, cond_map**a
        cond = cond_map.mean(dim=(1, 2, 3)).expand(b)
        return s, self.style(torch.cat([self.standardize(code), cond[:, None]], dim=1))  # (B,3C)

    def make_noise(self, x8: Tensor, offset: Tensor | None = None) -> Tensor | None:
        """Return noise (B or 1,1,4h,4w) for trunk features (B,C,h,w); None without noise.

        One fixed field, repeated, serves all resolutions, each from its top left corner. As it is
        addressed by position, tiles and video frames agree.

        Training rolls the field by a random offset (B,2) per image, instead of drawing fresh noise
        for every layer as StyleGAN does: the result is then a function of the batch's own random
        numbers, the same after resuming and for any number of processes or micro-batches; and
        inference sees the noise that was trained on.
        """
        if not self.noise:
            return None
        offset = x8.new_zeros(1, 2) if offset is None else offset
        start = (offset * NOISE_SIDE).long()  # (B or 1,2)
        height, width = 4 * x8.shape[-2], 4 * x8.shape[-1]
        rows = (start[:, :1] + torch.arange(height, device=x8.device)) % NOISE_SIDE  # (_,4h)
        columns = (start[:, 1:] + torch.arange(width, device=x8.device)) % NOISE_SIDE  # (_,4w)
        return self.noise_field[rows[:, None, :, None], columns[:, None, None, :]]

    def styled_blocks(
        self, x4: Tensor, x8: Tensor, style: Tensor, attention: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Return styled features (B,C/2,2h,2w) of the trunk's (B,C/2,2h,2w) and (B,C,h,w)."""
        x = x8  # (B,C,h,w)
        for block in self.blocks:
            x = block(x, style, noise)  # (B,C,h,w)
        if self.gates_decoder:
            a = attention if self.gate_trains_attention else attention.detach()  # (B,1,h,w)
            gate = a / (1 + a)  # (B,1,h,w); 1/2 where A = 1
            x = gate * x8 + (1 - gate) * x  # (B,C,h,w)
        x = torch.relu_(self.up1(x, style, noise) + self.skip(x4, style, noise))  # (B,C/2,2h,2w)
        return self.fine(x, style, noise)  # (B,C/2,2h,2w)

    def compose(
        self, residual: Tensor, photo: Tensor, code: Tensor, s: Tensor, colors: Tensor
    ) -> Tensor:
        """Add a residual to the recolored photo, (B,3,H,W) each; pixelwise, so also for tiles.

        ``colors`` are the color statistics (B,9) of the whole photo. A photo of one color stays
        so: instance norm would amplify the rounding errors of its features to a visible mesh.
        """
        contrast = (total_variance(colors) / FLAT_STD**2).clamp(0, 1)[:, None, None, None]
        z, target = to_logit(photo), code[:, :COLOR_SIZE]  # (B,3,H,W), (B,9)
        if self.base == "channelwise":
            colors, target = without_covariance(colors), without_covariance(target)
        shift = recolor(z, colors, target) - z if self.base != "none" else 0  # (B,3,H,W)
        image = from_logit(z + s * (shift + contrast * residual.float()))  # (B,3,H,W)
        return torch.where(s == 0, photo, image)

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
