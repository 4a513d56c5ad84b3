"""Boundaries kept: the value of extremes, and that only what is near the drawn lines counts."""

import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from underdrawing.metrics.boundaries import boundaries_kept

SIDE = 64


def smooth_noise(seed: int, sigma: float = 2.0) -> Tensor:
    noise = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return ((gaussian_blur2d(noise, (13, 13), (sigma, sigma)) - 0.5) * 4 + 0.5).clamp(0, 1)


PHOTO = smooth_noise(0)
DRAWN = torch.zeros(4, 1, SIDE, SIDE)
DRAWN[..., 16] = 1.0  # a vertical line
NEAR = torch.zeros(4, 1, SIDE, SIDE)
NEAR[..., 8:25] = 1.0


def test_photo_itself_scores_one_whatever_its_contrast() -> None:
    for output in (PHOTO, 1 - PHOTO, 0.3 * PHOTO + 0.2):
        kept = boundaries_kept(output, PHOTO, DRAWN)
        torch.testing.assert_close(kept, torch.ones(4), atol=1e-4, rtol=0)


def test_another_image_and_a_flat_one_score_about_zero() -> None:
    assert boundaries_kept(smooth_noise(1), PHOTO, DRAWN).mean().abs() < 0.15
    flat = boundaries_kept(torch.full_like(PHOTO, 0.5), PHOTO, DRAWN)
    torch.testing.assert_close(flat, torch.zeros(4), atol=1e-3, rtol=0)


def test_only_changes_near_the_drawn_lines_count() -> None:
    other = smooth_noise(1)
    elsewhere = boundaries_kept(NEAR * PHOTO + (1 - NEAR) * other, PHOTO, DRAWN)
    torch.testing.assert_close(elsewhere, torch.ones(4), atol=1e-3, rtol=0)
    assert boundaries_kept(NEAR * other + (1 - NEAR) * PHOTO, PHOTO, DRAWN).max() < 0.5


@pytest.mark.parametrize("missing", [torch.nan, 0.0])
def test_photos_without_boundaries_have_no_value_and_change_no_other(missing: float) -> None:
    drawn = DRAWN.clone()
    drawn[1] = missing
    kept = boundaries_kept(smooth_noise(1), PHOTO, drawn)
    assert kept.isnan().tolist() == [False, True, False, False]
    alone = boundaries_kept(smooth_noise(1)[2:], PHOTO[2:], DRAWN[2:])
    torch.testing.assert_close(kept[2:], alone)


def test_lines_that_more_annotators_drew_weigh_more() -> None:
    two_lines = DRAWN.clone()
    two_lines[..., 48] = 0.2
    near_first = NEAR * smooth_noise(1) + (1 - NEAR) * PHOTO
    far = 1 - NEAR
    near_second = far * smooth_noise(1) + (1 - far) * PHOTO
    first, second = (boundaries_kept(x, PHOTO, two_lines) for x in (near_first, near_second))
    assert (first < second).all()
