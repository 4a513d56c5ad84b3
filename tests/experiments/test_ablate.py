import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from underdrawing.data.files import write_atomic
from underdrawing.experiments import ablate as module
from underdrawing.experiments import cells, scorer
from underdrawing.experiments.ablate import AblateConfig, ablate, ablations, command, distinct
from underdrawing.experiments.ablations import ABLATIONS
from underdrawing.experiments.analysis.curves import Curve
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.scoring.protocol import CONTROLS
from underdrawing.experiments.strength_check import check_strengths, matches, write_check
from underdrawing.experiments.study.plan import (
    StudyPlan,
    duration,
    list_cells,
    runs_left,
    seconds_per_step,
    summary,
)
from underdrawing.experiments.study.runs import StudyRun, cell_config
from underdrawing.metrics.scores import MetricNetworks, Scores
from underdrawing.models import pretrained
from underdrawing.trainers.config import GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model

Trained = list[str]


@pytest.fixture
def study(
    offline: None,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_judges: Callable[..., MetricNetworks],
) -> StudyConfig:
    monkeypatch.setattr(scorer, "make_judges", toy_judges)
    monkeypatch.setattr(pretrained, "PACKAGES", {})
    return replace(
        quick(), photos=folders[0], paintings=folders[1], out=tmp_path / "out", warmup=1, steps=1,
        size=32, batch_size=2, seeds=1, pairs=2, strengths=(0.5, 1.0), workers=0, device="cpu",
        precision="fp32", matched_gap=0.001, generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip


def pretend(config: TrainConfig) -> None:
    """A run whose generator is as it was initialized: training would take long here."""
    torch.manual_seed(config.seed)
    save_model(build_generator(config).state_dict(), config.out)
    write_atomic(config.out / "config.json", to_json(config))
    checkpoint(config, config.steps)


def checkpoint(config: TrainConfig, step: int) -> None:
    folder = config.out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"step-{step:08}.safetensors").touch()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, timed or painted for the report."""
    monkeypatch.setattr(cells, "train", pretend)
    monkeypatch.setattr(module, "cell_pictures", lambda *_: [])
    monkeypatch.setattr(module, "seconds_per_step", lambda *_: 60.0)


@pytest.fixture
def trained(quickly: None, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The cells that are trained from now on; the fourth is interrupted."""
    titles: Trained = []

    def spy(study: StudyConfig, cell: StudyRun) -> None:
        titles.append(f"{cell.title} {cell.seed}")
        if len(titles) == 4:
            raise KeyboardInterrupt
        cells.train_cell(study, cell)

    monkeypatch.setattr(scorer, "train_cell", spy)
    return titles


def test_axes_share_their_baseline_and_go_on_where_they_were_stopped(
    study: StudyConfig, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    study = replace(study, seeds=2, json=study.out / "all.json")
    config = AblateConfig(("decoder", "clip"), study=study)
    with pytest.raises(KeyboardInterrupt):
        ablate(config)
    assert "8 cells (4 × 2 seed(s); 0 kept, 0 skipped), 8 to train and 2 warm-up(s): about" in (
        capsys.readouterr().err
    )
    found, failures = ablate(config)
    assert not failures
    assert "3 kept, 0 skipped), 5 to train and 1 warm-up(s): about" in capsys.readouterr().err
    assert trained == [
        "decoder: off 0", "decoder: on 0", "clip: 2 0", "clip: 10 0", "clip: 10 0",
        "decoder: off 1", "decoder: on 1", "clip: 2 1", "clip: 10 1",
    ]  # fmt: skip

    decoder, clip = found
    assert [line.title for line in decoder.full.lines] == ["off", "on", *CONTROLS]
    assert [line.title for line in clip.full.lines] == ["2", "5", "10", *CONTROLS]
    assert {(d.row, d.against) for d in clip.differences} == {("2", "5"), ("10", "5")}
    assert clip.curves["5"] == decoder.curves["off"]
    assert decoder.full.lines[0].figures["ssim"].half_interval is not None  # two seeds
    assert ABLATIONS["clip"].asks in clip.full.notes[0]
    for axis in ("decoder", "clip"):
        assert {"table.md", "table.tex", "table.csv", "table.json"} == {
            path.name for path in (study.out / axis).iterdir()
        }
    both = json.loads((study.out / "all.json").read_text())
    assert both["clip"] == json.loads((study.out / "clip" / "table.json").read_text())
    page = (study.out / "report.html").read_text()
    assert ABLATIONS["decoder"].asks in page
    assert ABLATIONS["clip"].asks in page

    # Again: nothing is measured, trained or scored.
    ablate(config)
    assert "8 kept, 0 skipped), 0 to train and 0 warm-up(s)\n" in capsys.readouterr().err
    assert len(trained) == 9


def words(study: StudyConfig) -> list[str]:
    """The study on the command line."""
    options = [
        "--photos", study.photos, "--paintings", study.paintings, "--out", study.out, "--warmup", 1,
        "--steps", 1, "--size", 32, "--batch-size", 2, "--pairs", 2, "--strengths", 1, "--device",
        "cpu", "--workers", 0, "--generator.width", 8, "--generator.blocks", 1,
    ]  # fmt: skip
    return [*map(str, options), "--precision", "fp32"]


@pytest.mark.usefixtures("quickly")
def test_an_encoder_without_weights_is_skipped_in_words(study: StudyConfig) -> None:
    command(["encoder", *words(study)])  # and no exit code
    table = json.loads((study.out / "encoder" / "table.json").read_text())
    assert list(table["curves"]) == ["vgg16"]
    assert set(table["skipped"]) == set(ABLATIONS["encoder"].values) - {"vgg16"}
    for why in table["skipped"].values():
        assert why.startswith("skipped: no weights for ")
    assert "*vgg19*: skipped: no weights" in (study.out / "encoder" / "table.md").read_text()


def test_a_cell_that_fails_leaves_the_others_their_figures(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained in earnest."""
    monkeypatch.setattr(module, "seconds_per_step", lambda *_: 60.0)
    with pytest.raises(SystemExit) as end:
        command(["scales", *words(study)])
    assert end.value.code == 1
    table = json.loads((study.out / "scales" / "table.json").read_text())
    assert list(table["curves"]) == ["1"]
    assert "failed: size 32 is too small for the discriminator" in table["skipped"]["2"]
    assert "scales: 2, seed 0, failed: size 32 is too small" in capsys.readouterr().err


def test_a_dry_run_lists_the_cells_and_trains_none(
    study: StudyConfig, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AblateConfig(("encoder", "ema"), dry_run=True, study=study)
    assert ablate(config) == ([], {})
    *lines, last = capsys.readouterr().out.splitlines()
    states = {line.rpartition("  ")[2]: line.split("  ")[1].strip() for line in lines}
    assert states["ema: 0"] == states["encoder: vgg16"] == "to train"
    assert states["encoder: resnet50, smooth"] == "skipped: no weights"
    keys = {line.split()[0] for line in lines}
    assert keys == set(distinct(study, ablations(config)))
    assert "10 cells (10 × 1 seed(s); 0 kept, 7 skipped), 3 to train and 2 warm-up(s)" in last
    assert "about 5 min on this machine (60 s a step" in last
    assert trained == []
    assert not (study.out / "cells").exists()


def test_a_step_is_timed_without_a_trace(study: StudyConfig) -> None:
    cell = StudyRun("", RECIPES["attention"](), 0)
    assert 0 < seconds_per_step(study, cell) < 60
    assert not study.out.exists()


def test_what_is_left_is_told_from_the_checkpoints(study: StudyConfig) -> None:
    """A cell in the middle wants its rest, and no start; one without scores only those."""
    study = replace(study, steps=10, warmup=100)
    wanted = distinct(study, ablations(AblateConfig(("clip",), study=study)))
    agenda = StudyPlan(study, wanted, {}, wanted)
    middle, finished, new = wanted
    checkpoint(cell_config(study, wanted[middle]), 4)
    checkpoint(cell_config(study, wanted[finished]), 10)
    assert [run.out.name for run in runs_left(agenda)[0]] == [middle, new]
    assert "2 to train and 1 warm-up(s): about 1 h 56 min" in summary(agenda, 60.0)
    states = [line.split("  ")[1].strip() for line in list_cells(agenda).splitlines()]
    assert states == ["to continue at 4", "to score", "to train"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (3, 89, 3600, 7800)] == [
        "1 min",
        "1 min",
        "1 h 0 min",
        "2 h 10 min",
    ]


def test_a_grid_is_one_table(study: StudyConfig) -> None:
    (table,) = ablations(AblateConfig(("objective", "decoder"), grid=True, study=study))
    assert table.name == "objective+decoder"
    assert table.variants.baseline == "learned · off"
    assert len(table.rows) == 12  # two of fourteen contradict themselves


def test_an_axis_named_twice_is_one_table(study: StudyConfig) -> None:
    assert len(ablations(AblateConfig(("clip", "clip"), study=study))) == 1


def test_help_lists_the_axes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, axis in ABLATIONS.items():
        assert f"{name}: {axis.asks}" in text


# -- one strength against all ---------------------------------------------------------------------


def scores(figure: float, pairs: int = 8) -> Scores:
    per_pair = {key: [figure] * pairs for key in ("ssim", "ssim_worst", "lpips", "style_gap")}
    return Scores(
        ssim=figure, ssim_worst=figure, lpips=figure, style_gap=figure, frechet=None, kernel=None,
        frechet_photos=None, pairs=pairs, left_out=0, per_pair=per_pair,
        photo=list(range(pairs)), painting=[0, 1] * (pairs // 2),
    )  # fmt: skip


def curve(half: float, full: float) -> Curve:
    return Curve((0.0, 0.5, 1.0), (scores(0), scores(half), scores(full)))


@pytest.fixture
def rows() -> dict[str, list[Curve]]:
    """At 0.5 the model of all strengths is 0.02 too low on average, at 1 it is 0.1 too high."""
    return {
        "all strengths": [curve(0.25, 0.6), curve(0.31, 0.6)],
        "1 alone": [curve(0.9, 0.5)] * 2,
        "0.5 alone": [curve(0.3, 0.9)] * 2,
    }


def test_each_strength_is_compared_at_itself(rows: dict[str, list[Curve]]) -> None:
    found = {(m.strength, m.figure): m for m in matches(rows)}
    assert len(found) == 6
    half, full = found[0.5, "ssim"], found[1.0, "ssim"]
    assert half.difference == pytest.approx(-0.02)
    assert full.difference == pytest.approx(0.1)
    assert (half.holds, full.holds, found[1.0, "lpips"].holds) == ("yes", "no", "")
    assert half.interval == pytest.approx((-0.02, -0.02))  # pairs are all alike


def test_the_interval_is_over_pictures(rows: dict[str, list[Curve]]) -> None:
    """What one of the two paintings adds to all its pairs is half of the resamples, or none."""
    for row in rows["all strengths"]:
        figures = row.scores[1].per_pair["ssim"]
        figures[1::2] = [figure + 0.1 for figure in figures[1::2]]
    found = {(m.strength, m.figure): m for m in matches(rows)}
    assert found[0.5, "ssim"].difference == pytest.approx(0.03)
    assert found[0.5, "ssim"].interval == pytest.approx((-0.02, 0.08))


def test_pairs_without_a_figure_are_left_out(rows: dict[str, list[Curve]]) -> None:
    rows["all strengths"][0].scores[1].per_pair["style_gap"][0] = np.nan
    found = {(m.strength, m.figure): m for m in matches(rows)}
    assert found[0.5, "style_gap"].difference == pytest.approx(-0.02)


def test_a_row_that_is_missing_is_not_compared(rows: dict[str, list[Curve]]) -> None:
    del rows["1 alone"]
    assert {match.strength for match in matches(rows)} == {0.5}
    del rows["all strengths"]
    assert matches(rows) == []


def test_the_check_is_written(rows: dict[str, list[Curve]], tmp_path: Path) -> None:
    write_check(matches(rows), tmp_path)
    assert "| 0.5 | ssim | -0.020 | -0.020 … -0.020 | ± 0.03 | yes |" in (
        (tmp_path / "check.md").read_text()
    )
    records = json.loads((tmp_path / "check.json").read_text())
    assert [record["holds"] for record in records] == ["no", "no", "", "yes", "yes", ""]


def test_strengths_that_are_not_scored_cannot_be_compared_at(study: StudyConfig) -> None:
    check_strengths(study)
    with pytest.raises(ValueError, match=r"compares at 0\.5, too: add it to --strengths"):
        check_strengths(replace(study, strengths=(0.25, 1.0)))


@pytest.mark.usefixtures("quickly")
def test_the_axis_writes_its_check(study: StudyConfig) -> None:
    ablate(AblateConfig(("strength",), study=study))
    records = json.loads((study.out / "strength" / "check.json").read_text())
    assert {record["strength"] for record in records} == {0.5, 1.0}
