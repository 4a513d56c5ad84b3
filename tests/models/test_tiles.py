"""Tiles without seams: what the generator paints of the whole picture, to 1e-5 in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from underdrawing.models import tiles
from underdrawing.models.generator import Generator, UpsampleConv, conv
from underdrawing.models.tiles import convolve, stylize_in_tiles

CODE = 14
SIZES = [(32, 32), (33, 47), (97, 55), (61, 203), (150, 130)]  # few are multiples of 8


def generator(**options: object) -> Generator:
    """One whose paint and attention have left their zero start."""
    made = Generator(CODE, width=8, blocks=2, **options)  # type: ignore[arg-type]
    nn.init.normal_(made.to_residual.conv.weight, std=0.1)
    if made.attention is not None:
        nn.init.normal_(made.attention.logits.weight)
    return made


@pytest.mark.parametrize(
    "options",
    [{}, {"gate": True}, {"modulates_strength": True}, {"base": "photo", "attention": False}],
)
@pytest.mark.parametrize("positions", [1, 300, 10**9])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiles_paint_the_same_picture(
    height: int, width: int, positions: int, options: dict[str, object]
) -> None:
    stylizer, photo, code = generator(**options), torch.rand(2, 3, height, width), torch.rand(2, 14)
    with torch.no_grad():
        whole = stylizer(photo, code, 0.8)
    tiled = stylize_in_tiles(stylizer, photo, code, 0.8, positions=positions)
    torch.testing.assert_close(tiled.image, whole.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.attention, whole.attention, rtol=1e-4, atol=1e-5)
    assert (tiled.image - photo).abs().mean() > 0.01


def test_statistics_are_those_of_the_whole_picture() -> None:
    stylizer, code = generator(), torch.rand(1, CODE)
    photo = torch.rand(1, 3, 96, 64)
    photo[..., 48:, :] *= 0.2  # darker below: its parts have other statistics than the whole
    upper = stylize_in_tiles(stylizer, photo[..., :48, :], code).image
    tiled = stylize_in_tiles(stylizer, photo, code, positions=100).image
    assert (tiled[..., :40, :] - upper[..., :40, :]).abs().mean() > 0.01


@pytest.mark.parametrize("strength", [torch.tensor([0.2, 1.0]), torch.rand(2, 1, 50, 70)])
def test_strength_per_picture_and_per_pixel(strength: Tensor) -> None:
    stylizer, photo, code = generator(), torch.rand(2, 3, 50, 70), torch.rand(2, CODE)
    with torch.no_grad():
        whole = stylizer(photo, code, strength, cond_strength=1.0).image
    tiled = stylize_in_tiles(
        stylizer, photo, code, strength, cond_strength=1.0, positions=100
    ).image
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_strength_zero_is_the_photo_itself() -> None:
    photo = torch.rand(1, 3, 40, 50)
    image = stylize_in_tiles(generator(), photo, torch.rand(1, CODE), 0.0, positions=50).image
    assert torch.equal(image, photo)


@pytest.mark.parametrize(
    "make",
    [lambda: conv(4, 6, 3), lambda: UpsampleConv(4, 6, 3), lambda: UpsampleConv(4, 6, 5)],
)
@pytest.mark.parametrize("height", [2, 3, 8, 9, 31])
def test_a_convolution_by_tiles(make: Callable[[], nn.Module], height: int) -> None:
    layer, x = make().double(), torch.rand(2, 4, height, 7).double()
    with torch.no_grad():
        torch.testing.assert_close(convolve(layer, x, positions=30), layer(x))


def test_tiles_cover_the_picture_once_and_none_is_a_single_row() -> None:
    for height in range(2, 40):
        for positions in (1, 10, 100):
            parts = tiles.tiles(torch.empty(1, 1, height, 5), positions)
            rows = [row for top, bottom in parts for row in range(top, bottom)]
            assert rows == list(range(height))
            assert min(bottom - top for top, bottom in parts) >= 2
