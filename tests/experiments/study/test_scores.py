"""What is kept of scores, and when it is not taken for those that are asked for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from underdrawing.experiments import scorer as module
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.scoring.protocol import score_painter
from underdrawing.experiments.study.runs import StudyRun
from underdrawing.experiments.study.scores import control_scores, make_scorer
from underdrawing.metrics.scores import MetricNetworks, Scores

CELL = StudyRun("", RECIPES["attention"](), 0)


@pytest.fixture
def study(
    offline: None, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    toy_judges: Callable[..., MetricNetworks],
) -> StudyConfig:  # fmt: skip
    """On copies of the pictures, so that a test may change them."""
    monkeypatch.setattr(module, "make_judges", toy_judges)
    photos, paintings = (
        Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders
    )
    return replace(
        quick(), photos=photos, paintings=paintings, out=tmp_path / "out", size=32, pairs=9,
        device="cpu", precision="fp32",
    )  # fmt: skip


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is scored from now on."""
    calls: list[Any] = []

    def spy(stylizer: Any, manifest: Any, *rest: Any) -> dict[str, Scores]:
        calls.append(manifest)
        return score_painter(stylizer, manifest, *rest)

    monkeypatch.setattr(module, "score_painter", spy)
    return calls


def controls(study: StudyConfig) -> dict[str, Scores]:
    return control_scores(make_scorer(study, CELL))


def test_scores_are_kept_and_the_same(study: StudyConfig, scored: list[Any]) -> None:
    first = controls(study)
    assert controls(study) == first
    assert len(scored) == 1
    assert len(first["identity"].photo) == len(first["identity"].painting) == 9


def test_each_split_keeps_its_own(study: StudyConfig, scored: list[Any]) -> None:
    test, validation = study, replace(study, split="validation")
    first = controls(test), controls(validation)
    assert set(scored[0]).isdisjoint(scored[1])
    assert (controls(test), controls(validation)) == first
    assert len(scored) == 2


@pytest.mark.parametrize("folder", ["photos", "paintings"])
def test_other_pictures_of_the_same_names_are_scored_anew(
    folder: str, study: StudyConfig, scored: list[Any]
) -> None:
    before = controls(study)
    pair = 0 if folder == "photos" else 1
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(scored[0][0][pair])
    assert controls(study)["color only"] != before["color only"]
    assert [p.name for p, _ in scored[0]] == [p.name for p, _ in scored[1]]


def test_scores_of_an_older_version_are_made_anew(study: StudyConfig, scored: list[Any]) -> None:
    first = controls(study)
    (file,) = (study.out / "scores" / "test").iterdir()
    kept = json.loads(file.read_text())
    for scores in kept["scores"].values():
        del scores["photo"]
    file.write_text(json.dumps(kept))
    assert controls(study) == first
    assert len(scored) == 2
