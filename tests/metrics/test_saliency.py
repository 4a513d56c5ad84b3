"""SSIM where a saliency map says that people look, and its control in the middle."""

import pytest
import torch
from torch import Tensor
from underdrawing.metrics.perceptual import local_ssim, ssim_scores
from underdrawing.metrics.saliency import centered, salient_ssim

SIDE = 64
PHOTO, OTHER = torch.rand(2, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def blob(row: float, column: float, sigma: float) -> Tensor:
    y, x = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float32)] * 2, indexing="ij")
    exponent = ((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)
    return (-exponent).exp().expand(2, 1, SIDE, SIDE)


@pytest.mark.parametrize("object_kept", [True, False])
def test_each_value_counts_its_own_place(object_kept: bool) -> None:
    mask = (blob(15, 15, 5) > 0.02).float()  # 14 pixels around a corner
    mask = mask if object_kept else 1 - mask
    local = local_ssim(mask * PHOTO + (1 - mask) * OTHER, PHOTO)
    salient, center = salient_ssim(local, blob(15, 15, 3))
    kept, lost = (salient, center) if object_kept else (center, salient)
    assert kept.min() > 0.9
    assert lost.max() < 0.3


def test_neither_depends_on_level_or_scale_of_the_saliency() -> None:
    local, saliency = local_ssim(OTHER, PHOTO), blob(20, 40, 8)
    values = salient_ssim(local, saliency), salient_ssim(local, 0.3 + 0.2 * saliency)
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b)


def test_weights_are_means() -> None:
    rows = torch.arange(SIDE, dtype=torch.float32)[:, None].expand(2, 1, SIDE, SIDE)
    mean, _ = ssim_scores(local_ssim(OTHER, PHOTO))
    for value in salient_ssim(local_ssim(OTHER, PHOTO), rows):
        torch.testing.assert_close(value, mean, atol=0.1, rtol=0)
    assert salient_ssim(local_ssim(OTHER, PHOTO), torch.full_like(rows, 0.5))[0].isnan().all()


def test_centered_weights_have_the_standard_deviations_of_the_map() -> None:
    found = centered(blob(20, 40, 6))[0, 0]
    expected = blob((SIDE - 1) / 2, (SIDE - 1) / 2, 6)[0, 0]
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
