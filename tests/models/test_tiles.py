"""Tiling changes nothing but rounding: 1e-5 in float32."""

from typing import Any

import pytest
import torch
from torch import nn
from underdrawing.models.generator import (
    Generator,
    StyledConv,
    reduce_photo,
)
from underdrawing.models.tiles import stylize_in_tiles

CODE = 20
OPTIONS: list[dict[str, Any]] = [
    {}, {"gates_decoder": True}, {"modulates_strength": True}, {"base": "channelwise"},
    {"attention": False, "noise": False},
]  # fmt: skip
SIZES = [(32, 32), (33, 47), (97, 55), (281, 43)]  # one is longer than the noise field


def make_generator(**options: Any) -> Generator:
    """A generator whose residual, noise and attention have left their zero initialization."""
    generator = Generator(CODE, width=8, blocks=2, **options)
    nn.init.normal_(generator.to_residual.conv.weight, std=0.1)
    for module in generator.modules():
        if isinstance(module, StyledConv):
            nn.init.normal_(module.style.bias, std=0.3)
    if generator.attention is not None:
        nn.init.normal_(generator.attention.head.weight)
    return generator


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("positions", [1, 300, 10**9])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiled_output_equals_the_generators(
    height: int, width: int, positions: int, options: dict[str, Any]
) -> None:
    generator, strength = make_generator(**options), torch.tensor([0.3, 1.0])
    photo, code = torch.rand(2, 3, height, width), torch.rand(2, CODE)
    with torch.no_grad():
        whole = generator(photo, code, strength)
    tiled = stylize_in_tiles(generator, photo, code, strength, positions=positions)
    torch.testing.assert_close(tiled.image, whole.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.attention, whole.attention, rtol=1e-4, atol=1e-5)
    assert (tiled.image - photo).abs().mean() > 0.01


@pytest.mark.parametrize("positions", [1, 300, 10**9])
@pytest.mark.parametrize("stroke_size", [1, 1.3, 2])
def test_tiled_output_of_a_reduced_photo(stroke_size: float, positions: int) -> None:
    """With a strength per position."""
    generator = make_generator(modulates_strength=True)
    photo, code, s = torch.rand(1, 3, 97, 75), torch.rand(1, CODE), torch.rand(1, 1, 97, 75)
    options: dict[str, Any] = {"reduced": reduce_photo(photo, stroke_size)}
    with torch.no_grad():
        whole = generator(photo, code, s, **options).image
    tiled = stylize_in_tiles(generator, photo, code, s, positions=positions, **options).image
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_strength_zero_returns_the_photo() -> None:
    photo = torch.rand(1, 3, 40, 50)
    image = stylize_in_tiles(make_generator(), photo, torch.rand(1, CODE), 0.0, positions=50).image
    assert torch.equal(image, photo)
