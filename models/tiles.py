"""Stylize large photos tile by tile: the generator's own result in three quarters of the memory.

A photo cannot simply be cut into tiles, since every instance norm and the softmax of A need
statistics of the whole image. So each layer runs on the whole image in turn, and only the work
inside a layer is tiled, with the rows its kernel reaches: no statistic is approximated, so there
are no seams. The layers at 1/4 resolution and below are small and not tiled.

A tile is a range of rows at full width, which is contiguous in memory.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .color import color_statistics
from .generator import Generator, Stylized, fit_to_photo, layout

REACH = 1  # rows that a decoder kernel needs on each side, at the resolution of its input
POSITIONS = 2**18  # of a tile, at the resolution of the layer's input; smaller tiles are slower


@torch.no_grad()
def stylize_in_tiles(
    generator: Generator,
    photo: Tensor,
    code: Tensor,
    strength: Tensor | float = 1.0,
    attend: bool = True,
    reduced: Tensor | None = None,
    positions: int = POSITIONS,
) -> Stylized:
    """Return the generator's output up to rounding.

    ``positions`` is the size of a tile; the other arguments are those of ``Generator.forward``,
    with its default conditioning strength.
    """
    small = photo if reduced is None else reduced
    x4, x8 = generator.encode_photo(small)
    attention, predicted = generator.predict_attention(small, x4, x8, attend)
    s, style = generator.condition(photo, code, strength, attention, reduced=reduced)
    noise = generator.make_noise(x8)
    x = generator.styled_blocks(x4, x8, style, attention, noise)
    del x4, x8  # 1.6 GB for 8192x8192 pixels
    for layer in (generator.up2, generator.up3):
        x = torch.relu_(layer.apply_style(convolve(layer.conv, x, positions), style, noise))
    residual = fit_to_photo(convolve(generator.to_residual, x, positions), photo, reduced)
    del x
    colors, image = color_statistics(photo), torch.empty_like(photo)
    for rows in (slice(*tile) for tile in row_ranges(photo, 4 * positions)):
        s_rows = s[..., rows, :] if s.shape[-2] > 1 else s
        image[..., rows, :] = generator.compose(
            residual[..., rows, :], photo[..., rows, :], code, s_rows, colors
        )
    return Stylized(image, attention, predicted)


def convolve(conv: nn.Module, x: Tensor, positions: int) -> Tensor:
    """Return ``conv(x)``, computed tile by tile."""
    ranges = row_ranges(x, positions)
    first = conv_rows(conv, x, *ranges[0])
    scale = first.shape[-2] // ranges[0][1]
    size = (*first.shape[:2], scale * x.shape[-2], first.shape[-1])
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout())
    for top, bottom in ranges:
        result[..., scale * top : scale * bottom, :] = conv_rows(conv, x, top, bottom)
    return result


def row_ranges(x: Tensor, positions: int) -> list[tuple[int, int]]:
    """Cut the rows of (B,C,h,w) into tiles (top, bottom), bottom excluded, of at least two rows."""
    b, _, height, width = x.shape
    count = max(1, min(b * height * width // positions, height // 2))
    return list(pairwise(height * i // count for i in range(count + 1)))


def conv_rows(conv: nn.Module, x: Tensor, top: int, bottom: int) -> Tensor:
    """Return the rows of ``conv(x)`` that belong to rows [top, bottom) of x; twice as many if it
    upsamples.

    The convolution pads its input. Away from the image border, it is given the neighboring rows
    as well, and the rows that depend on the padding are dropped.
    """
    first, last = max(top - REACH, 0), min(bottom + REACH, x.shape[-2])
    result = conv(x[..., first:last, :])
    scale = result.shape[-2] // (last - first)
    return result[..., scale * (top - first) : scale * (bottom - first), :]
