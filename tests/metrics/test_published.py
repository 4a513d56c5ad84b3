"""CFSD and DISTS: the formulas; the networks are tested in experiments/scoring/test_networks.py."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from underdrawing.metrics import published
from underdrawing.metrics.published import cfsd, dists, dists_weights

CHANNELS = (3, 64, 128, 256, 512, 512)


def features(seed: int, count: int = 2, channels: int = 6, side: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.rand(count, channels, side, side + 1, generator=generator)


def test_cfsd_is_the_sum_of_divergences_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    output, photo = features(0), features(1)
    expected = torch.zeros(2, dtype=torch.float64)
    for n in range(2):
        a, b = (x[n].double().flatten(1) for x in (output, photo))  # (C,30)
        for i in range(30):
            logits = [torch.tensor([float(f[:, i] @ f[:, j]) / 36 for j in range(30)])
                      for f in (a, b)]  # fmt: skip
            q, p = (x.double().exp() / x.double().exp().sum() for x in logits)
            expected[n] += (p * (p / q).log()).sum()
    for rows in (7, 1024):  # blocks of rows do not change it
        monkeypatch.setattr(published, "ROWS", rows)
        torch.testing.assert_close(cfsd(output, photo).double(), expected, rtol=1e-3, atol=1e-6)


def test_distances_are_zero_for_the_photo_and_grow_with_distortion() -> None:
    photo, noise = features(0), features(2)
    alpha, beta = torch.rand(6), torch.rand(6)
    structure = [cfsd(photo + amount * noise, photo) for amount in (0, 0.1, 0.3, 1)]
    texture = [dists([photo + x * noise], [photo], alpha, beta) for x in (0, 0.1, 0.3, 1)]
    for values in (structure, texture):
        assert values[0].abs().max() < 1e-5
        assert all((b > a).all() for a, b in pairwise(values))


def test_weights_of_dists_are_the_published_ones() -> None:
    """Of the package DISTS-pytorch, whose file torchmetrics carries: one weight per channel."""
    alpha, beta = dists_weights()
    assert len(alpha) == len(beta) == sum(CHANNELS)
    assert float(alpha.min()) >= 0
    assert float(beta.min()) >= 0
