"""Fixtures for tests of commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from underdrawing.metrics.judges import Judge, Judges


@pytest.fixture
def toy_judges() -> Callable[[torch.device, Path | None], Judges]:
    """In the place of ``make_judges``: pixels for networks, which would take long here."""
    words = "toy", "no weights"
    judge = Judge(lambda x, _: {"pixels": x}, ["pixels"], lambda f: f["pixels"].flatten(1), words)
    judges = Judges(
        style=judge, perceptual=judge, pooled=judge,
        lpips_name="toy LPIPS", frechet_name="toy Fréchet", kernel_name="toy KID",
    )  # fmt: skip
    return lambda device, weights_dir: judges
