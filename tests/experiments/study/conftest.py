"""Fixtures for tests of studies."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study import scores
from underdrawing.experiments.study.runs import StudyRun, make_run
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks
from underdrawing.trainers.config import GeneratorConfig


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return replace(quick(), out=tmp_path / "out", init=None, device="cpu", precision="fp32")


@pytest.fixture
def runs(study: StudyConfig) -> list[StudyRun]:
    names = ("multi-layer", "attention", "attention-adversarial")
    return [make_run(study, name, RECIPES[name](), 0, ("photos", "paintings")) for name in names]


@pytest.fixture
def small_study(
    offline: None, folders: tuple[Path, Path], study: StudyConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> StudyConfig:  # fmt: skip
    """A study on copies of small images, with pixels in place of metric networks."""
    pixels = FeatureExtractor(
        lambda images, layers: {"pixels": images}, ["pixels"], lambda f: f["pixels"].flatten(1),
        "toy", "no weights",
    )  # fmt: skip
    networks = MetricNetworks(pixels, pixels, pixels, "toy LPIPS", "toy Fréchet", "toy KID")
    monkeypatch.setattr(scores, "make_networks", lambda device, weights_dir: networks)
    photos, paintings = (shutil.copytree(path, tmp_path / path.name) for path in folders)
    return replace(
        study, photos=Path(photos), paintings=Path(paintings), size=32, pairs=9, batch_size=2,
        generator=GeneratorConfig(width=8, blocks=1), workers=0,
    )  # fmt: skip
