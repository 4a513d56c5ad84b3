"""A mask's colors say which style goes where."""

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.data.masks import region_weights


def thirds() -> Image.Image:
    """Red, gray and blue columns."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30, 0] = 255
    pixels[:, 30:60] = 128
    pixels[:, 60:, 2] = 255
    return Image.fromarray(pixels)


COLORS = ["red", "#808080", "blue"]


@pytest.mark.parametrize("size", [(60, 180), (33, 47), (900, 1500)])
def test_each_pixel_belongs_to_the_nearest_color(size: tuple[int, int]) -> None:
    weights = region_weights(thirds(), COLORS, size)
    assert weights.shape == (3, 1, *size)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(0), torch.ones(1, *size))
    third = size[1] // 3
    for number in range(3):
        assert (weights[number, 0, :, third * number + third // 2] > 0.99).all()


def test_edges_are_soft() -> None:
    red = region_weights(thirds(), COLORS, (300, 900))[0, 0, 150]
    assert (red.diff() <= 1e-6).all()
    assert ((red > 0.05) & (red < 0.95)).sum() >= 4
    assert red[280] > 0.99
    assert red[320] < 0.01


def test_noise_does_no_harm() -> None:
    noise = np.random.default_rng(0).integers(-40, 40, (30, 90, 3))
    noisy = Image.fromarray((np.asarray(thirds()) + noise).clip(0, 255).astype(np.uint8))
    assert torch.equal(
        region_weights(noisy, COLORS, (60, 180)), region_weights(thirds(), COLORS, (60, 180))
    )


@pytest.mark.parametrize(
    ("colors", "sentence"),
    [(["red", "mauvish"], "'mauvish' is no color"), (["red", "#ff0000"], "are the same")],
)
def test_colors_are_checked(colors: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        region_weights(thirds(), colors, (40, 40))
