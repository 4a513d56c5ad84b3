"""Color statistics in logit space, the affine map between them, and color-preserving stylization.

Color statistics (B,9) are the mean (3) and Cholesky factor (l00, l10, l11, l20, l21, l22) of an
image's logits in orthonormal opponent axes, luma first: the triangular factor then maps luma to
luma alone, so the light and dark of a result do not depend on the photo's hues.
"""

from functools import cache

import torch
from einops import einsum, rearrange
from torch import Tensor

COLOR_SIZE = 9  # mean (3) and Cholesky factor (6)
EPS = 0.02  # keeps the logit of [0,1] finite
REGULARIZATION = 0.06  # std added to each axis: bounds the gain of flat photos
OPPONENT = ((3**-0.5,) * 3, (2**-0.5, 0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: Y of YIQ and YCbCr


def to_logit(image: Tensor) -> Tensor:
    """Return f(x) = logit(EPS + (1 - 2 EPS) x) of an image in [0,1]."""
    return torch.logit(EPS + (1 - 2 * EPS) * image)


def from_logit(z: Tensor) -> Tensor:
    """Return the inverse of ``to_logit``, clamped to [0,1]."""
    return ((torch.sigmoid(z) - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def color_statistics(image: Tensor) -> Tensor:
    """Return the color statistics (B,9) of images (B,3,H,W) in [0,1], in float32."""
    with torch.autocast(image.device.type, enabled=False):
        z = to_logit(image.float())  # (B,3,H,W)
        # Sums of a row, then of the rows: one float32 sum over 12 megapixels loses digits.
        mean = z.mean(dim=3).mean(dim=2)  # (B,3)
        z -= mean[..., None, None]
        rows = einsum(z, z, "b c h w, b d h w -> b h c d") / z.shape[3]
        covariance = rows.mean(dim=1)  # (B,3,3)
        axes = _opponent(z)
        return torch.cat([mean @ axes.T, _cholesky(axes @ covariance @ axes.T)], dim=1)


def total_variance(statistics: Tensor) -> Tensor:
    """Return the variance of the logits, summed over the axes, (B,9) -> (B,)."""
    return statistics[:, 3:].square().sum(dim=1) - 3 * REGULARIZATION**2


def recolor(z: Tensor, own: Tensor, target: Tensor) -> Tensor:
    """Map logits (B,3,H,W) with color statistics ``own`` (B,9) to the statistics ``target`` (B,9).

    The map is z -> M z + t with M = O^T L_target L_own^-1 O, the same for every pixel; ``z`` may
    be a tile of an image with the statistics ``own``.
    """
    with torch.autocast(z.device.type, enabled=False):
        own, target, axes = own.to(z.dtype), target.to(z.dtype), _opponent(z)
        matrix = axes.T @ _matrix(target[:, 3:]) @ _matrix(_inverse(own[:, 3:])) @ axes  # (B,3,3)
        own_mean, target_mean = own[:, :3] @ axes, target[:, :3] @ axes  # (B,3), of logits of RGB
        shift = target_mean - einsum(matrix, own_mean, "b c d, b d -> b c")
        return einsum(matrix, z, "b c d, b d h w -> b c h w") + shift[..., None, None]


def without_covariance(statistics: Tensor) -> Tensor:
    """Replace the Cholesky factor in color statistics (B,9) by that of the axes' variances alone.

    The standard deviation of an axis is the norm of its row in the factor.
    """
    std = _matrix(statistics[:, 3:]).norm(dim=2)  # (B,3)
    zero = torch.zeros_like(std[:, 0])
    factor = [std[:, 0], zero, std[:, 1], zero, zero, std[:, 2]]
    return torch.cat([statistics[:, :3], torch.stack(factor, dim=1)], dim=1)


def with_colors_of(code: Tensor, photo: Tensor) -> Tensor:
    """Replace the color statistics of style codes (B,D) by those of photos (B,3,H,W).

    Use it before ``keep_chroma``: otherwise a dark painting darkens the photo under its own chroma.
    """
    return torch.cat([color_statistics(photo), code[:, COLOR_SIZE:]], dim=1)


def keep_chroma(stylized: Tensor, photo: Tensor) -> Tensor:
    """Combine the luma of ``stylized`` with the chroma of ``photo``, (B,3,H,W) in [0,1].

    Luminance-only transfer (Gatys et al. 2016, "Preserving Color in Neural Artistic Style
    Transfer") in YCbCr, where changing Y at constant chroma adds one number to R, G and B.
    Values outside [0,1] are clamped. Pixels equal to the photo's are returned unchanged.
    """
    return (photo + luminance(stylized - photo)).clamp(0, 1)


def luminance(image: Tensor) -> Tensor:
    """Return the luminance (B,1,H,W) of images (B,3,H,W)."""
    r, g, b = image.split(1, dim=1)
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def _opponent(x: Tensor) -> Tensor:
    """Return the axes (axis, channel)."""
    if torch.compiler.is_compiling():  # exporters, too: their tensors must not be stored
        return torch.tensor(OPPONENT, dtype=x.dtype, device=x.device)
    return _stored_opponent(x.dtype, x.device)


@cache
def _stored_opponent(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy the axes to a device once: the host waits for such a copy."""
    with torch.inference_mode(False):
        return torch.tensor(OPPONENT, dtype=dtype, device=device)


def _cholesky(covariance: Tensor) -> Tensor:
    """Return the Cholesky factor (B,6) of regularized covariances (B,3,3).

    In closed form, which is exported to ONNX and needs no solver on a GPU.
    """
    c = covariance + REGULARIZATION**2 * torch.eye(3, device=covariance.device)
    l00 = c[:, 0, 0].sqrt()
    l10, l20 = c[:, 1, 0] / l00, c[:, 2, 0] / l00
    l11 = (c[:, 1, 1] - l10**2).sqrt()
    l21 = (c[:, 2, 1] - l20 * l10) / l11
    l22 = (c[:, 2, 2] - l20**2 - l21**2).sqrt()
    return torch.stack([l00, l10, l11, l20, l21, l22], dim=1)


def _inverse(factor: Tensor) -> Tensor:
    """Return the inverse (B,6) of lower triangular matrices (B,6)."""
    l00, l10, l11, l20, l21, l22 = factor.unbind(dim=1)
    i00, i11, i22 = 1 / l00, 1 / l11, 1 / l22
    i10, i21 = -l10 * i00 * i11, -l21 * i11 * i22
    return torch.stack([i00, i10, i11, -(l20 * i00 + l21 * i10) * i22, i21, i22], dim=1)


def _matrix(factor: Tensor) -> Tensor:
    """Return lower triangular matrices (B,3,3) from their entries (B,6)."""
    l00, l10, l11, l20, l21, l22 = factor.unbind(dim=1)
    zero = torch.zeros_like(l00)
    entries = torch.stack([l00, zero, zero, l10, l11, zero, l20, l21, l22], dim=1)
    return rearrange(entries, "b (i j) -> b i j", i=3)
