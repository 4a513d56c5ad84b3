"""Fixtures for tests of studies."""

from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study.runs import StudyRun, make_run


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return replace(quick(), out=tmp_path / "out", init=None, device="cpu", precision="fp32")


@pytest.fixture
def runs(study: StudyConfig) -> list[StudyRun]:
    names = ("multi-layer", "attention", "attention-adversarial")
    return [make_run(study, name, RECIPES[name](), 0, ("photos", "paintings")) for name in names]
