from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.data.masks import region_weights

COLORS = ["red", "#808080", "blue"]


def columns() -> Image.Image:
    """Red, gray and blue columns."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30, 0] = 255
    pixels[:, 30:60] = 128
    pixels[:, 60:, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(60, 180), (33, 100), (900, 2700)])
def test_weights_sum_to_one_and_follow_the_nearest_color(size: tuple[int, int]) -> None:
    weights = region_weights(columns(), COLORS, size)
    assert weights.shape == (3, 1, *size)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(0), torch.ones(1, *size))
    third = size[1] // 3
    for number in range(3):
        assert (weights[number, 0, :, third * number + third // 2] > 0.99).all()


def test_edges_are_blurred() -> None:
    red = region_weights(columns(), COLORS, (300, 900))[0, 0, 150]
    assert (red.diff() <= 1e-6).all()
    assert ((red > 0.05) & (red < 0.95)).sum() >= 4
    assert red[280] > 0.99
    assert red[320] < 0.01


def test_noise_in_the_mask_changes_nothing() -> None:
    noise = np.random.default_rng(0).integers(-40, 40, (30, 90, 3))
    noisy = Image.fromarray((np.asarray(columns()) + noise).clip(0, 255).astype(np.uint8))
    clean, changed = (region_weights(mask, COLORS, (60, 180)) for mask in (columns(), noisy))
    assert torch.equal(clean, changed)


def test_a_mask_of_another_aspect_ratio_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mask of 90x30 pixels does not fit a photo of 47x33"):
        region_weights(columns(), COLORS, (33, 47))


def test_a_batch_of_masks_is_an_error() -> None:
    mask = np.asarray(columns())[None]
    assert torch.equal(*(region_weights(m, COLORS, (30, 90)) for m in (mask, mask[0])))
    with pytest.raises(ValueError, match="one image for all photos, not a batch of 2"):
        region_weights(np.concatenate([mask, mask]), COLORS, (30, 90))


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (["red", "mauvish"], "'mauvish' is no color"),
        (["red", "#ff0000"], "are the same"),
        (["red", (0, 0, 0)], r"\(0, 0, 0\) is no color"),
    ],
)
def test_unknown_and_equal_colors_are_rejected(colors: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_weights(columns(), colors, (40, 40))
