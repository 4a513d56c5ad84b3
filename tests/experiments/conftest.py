"""Fixtures for tests of commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks


@pytest.fixture
def toy_judges() -> Callable[[torch.device, Path | None], MetricNetworks]:
    """In the place of ``make_judges``: pixels for networks, which would take long here."""
    words = "toy", "no weights"
    extractor = FeatureExtractor(
        lambda x, _: {"pixels": x}, ["pixels"], lambda f: f["pixels"].flatten(1), words
    )
    networks = MetricNetworks(
        style=extractor, perceptual=extractor, pooled=extractor,
        lpips_name="toy LPIPS", frechet_name="toy Fréchet", kernel_name="toy KID",
    )  # fmt: skip
    return lambda device, weights_dir: networks
