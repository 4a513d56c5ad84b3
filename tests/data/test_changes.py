import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.data.changes import CHANGES, change

KINDS = pytest.mark.parametrize("name", CHANGES)


@pytest.fixture
def photos() -> Tensor:
    """Three smooth pictures that reach from black to white."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 40), mode="bilinear")
    low, high = smooth.amin((1, 2, 3), keepdim=True), smooth.amax((1, 2, 3), keepdim=True)
    return (smooth - low) / (high - low)


@KINDS
def test_severity_zero_is_the_photo_itself(name: str, photos: Tensor) -> None:
    assert torch.equal(change(name, photos, 0, 0, range(3)), photos)


@KINDS
def test_shape_and_range_are_kept_and_the_photo_is_left_alone(name: str, photos: Tensor) -> None:
    before = photos.clone()
    for severity in CHANGES[name].severities:
        changed = change(name, photos, severity, 0, range(3))
        assert changed.shape == photos.shape
        assert changed.dtype == photos.dtype
        assert changed.min() >= 0
        assert changed.max() <= 1
    assert torch.equal(photos, before)


@KINDS
def test_the_severer_the_further_from_the_photo(name: str, photos: Tensor) -> None:
    severities = CHANGES[name].severities
    distances = [(change(name, photos, s, 0, range(3)) - photos).norm() for s in severities]
    assert all(near < far for near, far in zip([0, *distances], distances, strict=False))


@KINDS
def test_a_change_depends_on_the_position_and_not_on_the_batch(name: str, photos: Tensor) -> None:
    severity = CHANGES[name].severities[1]
    whole = change(name, photos, severity, 5, [7, 8, 9])
    alone = [change(name, photos[i : i + 1], severity, 5, [7 + i]) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=0, atol=1e-6)
    assert torch.equal(whole, change(name, photos, severity, 5, [7, 8, 9]))


def test_noise_is_another_one_at_another_position_and_seed(photos: Tensor) -> None:
    first, second, third = (
        change("noise", photos[:1], 0.1, seed, [position])
        for seed, position in ((0, 0), (0, 1), (1, 0))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_noise_has_the_standard_deviation_of_its_severity_and_one_pattern() -> None:
    gray = torch.full((2, 3, 128, 128), 0.5)
    slight, strong = (change("noise", gray, s, 0, range(2)) - gray for s in (0.02, 0.1))
    assert slight.std().item() == pytest.approx(0.02, rel=0.02)
    assert strong.std().item() == pytest.approx(0.1, rel=0.02)
    torch.testing.assert_close(5 * slight, strong, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "severity", "values"),
    [
        ("brightness", 0.3, [0.3, 0.5, 1.0]),
        ("gamma", 1.0, [0.0, 0.04, 1.0]),
        ("contrast", 0.5, [0.2, 0.3, 0.7]),  # halfway to the mean, 0.4
    ],
)
def test_known_values(name: str, severity: float, values: list[float]) -> None:
    gray = torch.tensor([0.0, 0.2, 1.0]).expand(1, 3, 1, 3)
    changed = change(name, gray, severity, 0, [0])
    np.testing.assert_allclose(changed[0, 0, 0], values, atol=1e-4)


def test_jpeg_keeps_flat_colour_and_blocks_what_is_fine(photos: Tensor) -> None:
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    torch.testing.assert_close(change("JPEG", flat, 95, 0, [0]), flat)
    worst = change("JPEG", photos, 95, 0, range(3))
    torch.testing.assert_close(worst * 255, (worst * 255).round(), rtol=0, atol=1e-4)
    assert (worst - photos).abs().max() > 0.05
