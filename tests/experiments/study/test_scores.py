import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from underdrawing.experiments.presets import StudyConfig
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.scoring.protocol import score_methods
from underdrawing.experiments.study import scores as module
from underdrawing.experiments.study.runs import StudyRun, make_run
from underdrawing.experiments.study.scores import make_curves, make_scorer
from underdrawing.metrics.scores import Scores


@pytest.fixture
def small_study(small_study: StudyConfig, tmp_path: Path) -> StudyConfig:
    """On copies of the images."""
    assert small_study.photos
    assert small_study.paintings
    folders = (small_study.photos, small_study.paintings)
    photos, paintings = (Path(shutil.copytree(path, tmp_path / path.name)) for path in folders)
    return replace(small_study, photos=photos, paintings=paintings)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Manifests that are scored from now on."""
    calls: list[Any] = []

    def spy(stylize: Any, manifest: Any, *rest: Any, **options: Any) -> dict[str, Scores]:
        calls.append(manifest)
        return score_methods(stylize, manifest, *rest, **options)

    monkeypatch.setattr(module, "score_methods", spy)
    return calls


def controls(study: StudyConfig) -> dict[str, Scores]:
    return make_scorer(study).score_controls()


def test_scores_are_cached_by_split_and_nothing_is_written_before(
    small_study: StudyConfig, scored: list[Any]
) -> None:
    make_scorer(small_study)
    assert not small_study.out.exists()
    validation = replace(small_study, split="validation")
    first = controls(small_study), controls(validation)
    assert len(first[0]["identity"].photo) == len(first[0]["identity"].painting) == 9
    assert set(scored[0]).isdisjoint(scored[1])
    pairs = json.loads((small_study.out / "manifest.json").read_text())
    assert pairs == [[photo.name, painting.name] for photo, painting in scored[1]]
    assert (small_study.out / "images.json").is_file()
    # NaN is not equal to NaN
    assert repr((controls(small_study), controls(validation))) == repr(first)
    assert len(scored) == 2


def test_moved_and_renamed_images_keep_scores_and_pairs(
    small_study: StudyConfig, scored: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, data = controls(small_study), make_scorer(small_study).data
    assert small_study.photos is not None
    moved = small_study.photos.rename(tmp_path / "moved")
    for i, path in enumerate(sorted(moved.iterdir())):
        path.rename(moved / f"renamed-{9 - i % 10}{i}.png")
    monkeypatch.chdir(tmp_path)
    for folder in (moved, Path("moved"), Path("./moved/../moved")):
        study = replace(small_study, photos=folder)
        assert controls(study) == first
        assert make_scorer(study).data == data
    assert len(scored) == 1


@pytest.mark.parametrize("folder", ["photos", "paintings"])
def test_a_study_with_changed_images_is_refused(
    folder: str, small_study: StudyConfig, scored: list[Any]
) -> None:
    controls(small_study)
    path = scored[0][0][0 if folder == "photos" else 1]
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)
    message = rf"the {folder} are not those .*out was made with \(1 added, 1 removed\)"
    with pytest.raises(ValueError, match=message):
        controls(small_study)


def test_scores_depend_on_the_content_of_the_boundaries(
    small_study: StudyConfig, scored: list[Any], tmp_path: Path
) -> None:
    plain = controls(small_study)
    assert "boundaries" not in [column.key for column in make_scorer(small_study).columns()]
    drawn = tmp_path / "drawn"
    photo = scored[0][0][0]
    drawn.mkdir()
    shutil.copy(photo, drawn / photo.name)
    study = replace(small_study, boundaries=drawn)
    first = controls(study)["identity"]
    assert (first.boundaries, plain["identity"].boundaries) == (pytest.approx(1, abs=1e-4), None)
    assert make_scorer(study).columns()[-1].key == "boundaries"
    study = replace(study, boundaries=drawn.rename(tmp_path / "moved"))
    assert controls(study)["identity"].boundaries == first.boundaries
    assert len(scored) == 2
    Image.fromarray(np.eye(72, dtype=np.uint8) * 255).resize((72, 56)).save(
        study.boundaries / photo.name
    )
    controls(study)
    assert len(scored) == 3


@pytest.mark.parametrize("damage", ["outdated", "{", "3"])
def test_damaged_or_outdated_caches_are_replaced(
    damage: str, small_study: StudyConfig, scored: list[Any]
) -> None:
    first, path = controls(small_study), small_study.out / "scores" / "test" / "controls.json"
    path.write_text(path.read_text().replace('"photo"', '"of"') if damage == "outdated" else damage)
    assert controls(small_study) == first
    assert len(scored) == 2


def test_run_is_scored_at_the_studys_strengths(
    small_study: StudyConfig, scored: list[Any], write_model: Callable[..., Path]
) -> None:
    study = replace(small_study, strengths=(0.25, 1.0))
    run = make_run(study, "row", RECIPES["multi-layer"](), 0, ())
    write_model(run.config)
    scorer = make_scorer(study)
    scores = scorer.score_run(run)
    assert list(scores) == ["0.25", "1.0"]
    assert scores["0.25"].ssim > scores["1.0"].ssim
    assert scorer.cached(run.key) == scores
    assert len(scored) == 1
    assert make_scorer(replace(study, strengths=(0.5, 1.0))).cached(run.key) is None
    settings = json.loads((study.out / "scores" / "test" / f"{run.key}.json").read_text())
    assert "attention.objective: learned -> uniform" in settings["settings"]


def test_curves_start_at_the_photo_and_rows_with_a_missing_run_are_skipped(
    small_study: StudyConfig,
) -> None:
    photo = controls(small_study)["identity"]
    rows = {
        name: [make_run(small_study, name, RECIPES[name](), seed, ()) for seed in range(2)]
        for name in ("multi-layer", "attention")
    }
    scores: dict[str, dict[str, Scores]] = {
        run.key: {"0.5": photo, "1": photo} for runs in rows.values() for run in runs
    }
    failed: StudyRun = rows["attention"][1]
    del scores[failed.key]
    curves, skipped = make_curves(rows, scores, {failed.key: "out of memory"}, photo)
    assert [curve.strengths for curve in curves["multi-layer"]] == [(0.0, 0.5, 1.0)] * 2
    assert skipped == {"attention": "out of memory"}
    assert curves.keys() == {"multi-layer"}


def test_notes_and_cards_state_the_protocol(small_study: StudyConfig) -> None:
    scorer = make_scorer(small_study)
    notes = " ".join(scorer.notes(small_study))
    assert f"Photos: {small_study.photos}. Paintings: {small_study.paintings}." in notes
    assert "Evaluated on 9 held-out pairs (test) at 32 px" in notes
    cards = {card.name: card for card in scorer.cards(scorer.score_controls())}
    assert cards.keys() >= {"SSIM", "LPIPS", "KID (toy)"}
    assert cards["KID (toy)"].reference == "6 distinct paintings, none of them a style of a pair"
    assert "(identity 3, style image as output 3)" in cards["KID (toy)"].note
