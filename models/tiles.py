"""Large pictures, painted tile by tile: the generator's own function in two thirds of the memory.

A picture cannot simply be cut up: every instance norm takes its mean and variance over the whole
of it, and so does the attention's softmax. So the layers run one after the other over the whole
picture, as ever, and a layer's own work is done tile by tile, each with the rows that its kernel
reaches over. No statistic is estimated, so there can be no seam. Up to the styled blocks, which
work on a sixteenth of the positions, that is not worth it.

Tiles are as wide as the picture: then each is one piece of memory.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .generator import Generator, StyledConv, Stylized, adain, layout
from .style_code import mean_std

REACH = 1  # rows that the kernels of the decoder reach over, at the resolution of their input
POSITIONS = 2**18  # of a tile, at the resolution of its layer's input; fewer take longer


def stylize_in_tiles(
    generator: Generator,
    photo: Tensor,
    code: Tensor,
    strength: Tensor | float = 1.0,
    attend: bool = True,
    cond_strength: Tensor | float | None = None,
    positions: int = POSITIONS,
) -> Stylized:
    """What ``generator(photo, code, strength, attend, told)`` returns, up to rounding.

    Without gradients.

    Args:
        generator: the generator.
        photo, code, strength, attend, told: as ``Generator.forward`` has them.
        positions: of a tile.

    Raises:
        ValueError: the photo is smaller than 32 pixels.
    """
    with torch.no_grad():
        trunk = generator.encode_photo(photo)
        attention, channels = generator.predict_attention(trunk, attend)
        s, style = generator.condition(photo, code, strength, attention, cond_strength)
        h = generator.styled_blocks(trunk, style, attention)
        del trunk  # for 8192x8192 pixels a gigabyte
        for layer in generator.up:
            assert isinstance(layer, StyledConv)
            h = convolve(layer.conv, h, positions)
            h = torch.relu_(adain(h, *layer.style(style).chunk(2, dim=1)))
        colors, image = mean_std(photo), torch.empty_like(photo)
        height, width = photo.shape[-2:]
        for top, bottom in tiles(h[..., : (height + 1) // 2, :], positions):  # not the padding's
            rows = slice(2 * top, min(2 * bottom, height))
            paint = conv_rows(generator.to_residual, h, top, bottom)
            paint = paint[..., : rows.stop - rows.start, :width]
            some = s[..., rows, :] if s.shape[-2] > 1 else s
            image[..., rows, :] = generator.compose(paint, photo[..., rows, :], code, some, colors)
    return Stylized(image, attention, channels)


def convolve(conv: nn.Module, x: Tensor, positions: int) -> Tensor:
    """``conv(x)``, tile by tile."""
    parts = tiles(x, positions)
    first = conv_rows(conv, x, *parts[0])
    times = first.shape[-2] // parts[0][1]
    size = (*first.shape[:2], times * x.shape[-2], first.shape[-1])
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout())
    for top, bottom in parts:
        result[..., times * top : times * bottom, :] = conv_rows(conv, x, top, bottom)
    return result


def tiles(x: Tensor, positions: int) -> list[tuple[int, int]]:
    """Top and bottom (excluded) of the tiles of (B,C,h,w); none has a single row alone."""
    b, _, height, width = x.shape
    count = max(1, min(b * height * width // positions, height // 2))
    edges = [height * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def conv_rows(conv: nn.Module, x: Tensor, top: int, bottom: int) -> Tensor:
    """The rows of ``conv(x)`` that belong to these rows of x; twice as many if it enlarges.

    The convolution pads what it is given; where that is no edge of the picture, it is the rows
    around that are padded, and left out again.
    """
    first, last = max(top - REACH, 0), min(bottom + REACH, x.shape[-2])
    result = conv(x[..., first:last, :])
    times = result.shape[-2] // (last - first)
    return result[..., times * (top - first) : times * (bottom - first), :]
