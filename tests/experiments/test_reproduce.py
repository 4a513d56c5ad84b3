import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from underdrawing.experiments import reproduce as module
from underdrawing.experiments.analysis.tables import ROWS
from underdrawing.experiments.presets import PRESETS, StudyConfig, command_line, quick
from underdrawing.experiments.report import report
from underdrawing.experiments.reproduce import reproduce
from underdrawing.experiments.scoring.protocol import CONTROLS, score_methods
from underdrawing.experiments.study import queue, scores
from underdrawing.trainers.config import GeneratorConfig, TrainConfig
from underdrawing.trainers.trainer import train

TITLES = [row.title for row in ROWS]


@pytest.fixture
def study(small_study: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    """A study with a report without images."""
    monkeypatch.setattr(report, "study_samples", lambda *_: [])
    monkeypatch.setattr(report, "draw_figures", lambda *_: {})
    return replace(small_study, pairs=2, strengths=(1.0,))


def test_every_row_is_trained_scored_and_written_and_the_rest_reused(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, failures = reproduce(study)
    assert failures == {}
    assert [row.title for row in result.full.rows] == TITLES + list(CONTROLS)
    assert [row.title for row in result.matched.rows] == TITLES
    assert result.full.rows[0].entries["ssim"].paper == "0.72"
    compared = {(d.row, d.against) for d in result.differences}
    assert compared == {(TITLES[i], TITLES[i - 1]) for i in range(1, 5)}
    (maps,) = result.sections
    assert [row.title for row in maps.table.rows] == TITLES[3:]
    written = {"table.md", "table.csv", "table.json", "report.html", "paper", "manifest.json"}
    assert written <= {path.name for path in study.out.iterdir()}
    page = (study.out / "report.html").read_text()
    assert all(title in page for title in TITLES)
    record = json.loads((study.out / "paper" / "record.json").read_text())
    assert module.parse(shlex.split(record["command"])[2:]) == study
    run = json.loads(next(study.out.glob("runs/*/run.json")).read_text())
    assert record["sha256"]["photos"] == run["data"]["photos"]
    assert record["sha256"]["encoder vgg16"] == run["encoder"]["sha256"]
    assert {"paintings", "initial model"} <= record["sha256"].keys()
    assert any(name.startswith("metric network ") for name in record["sha256"])

    monkeypatch.setattr(report, "write_report", lambda *_: None)
    scored: list[Any] = []

    def spy(*args: Any, **options: Any) -> Any:
        scored.append(args)
        return score_methods(*args, **options)

    monkeypatch.setattr(scores, "score_methods", spy)
    path = next(p for p in (study.out / "scores" / "test").iterdir() if "controls" not in p.name)
    before = json.loads(path.read_text())["scores"]
    path.unlink()
    assert reproduce(study)[0].full == result.full
    assert len(scored) == 1
    assert json.loads(path.read_text())["scores"] == before


def test_failed_runs_leave_the_other_rows_and_exit_with_1(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_some(config: TrainConfig) -> Path:
        if config.init and config.recipe not in ("single-layer", "multi-layer"):
            raise ValueError("the disk is full")
        return train(config)

    monkeypatch.setattr(queue, "train", fail_some)
    monkeypatch.setattr(report, "write_report", lambda *_: None)
    monkeypatch.setattr(module, "parse", lambda _: study)
    with pytest.raises(SystemExit) as exit_:
        module.command([])
    done, failed = TITLES[1:3], [TITLES[0], *TITLES[3:]]
    reasons = [f"{title}, seed 0, failed: the disk is full" for title in failed]
    assert str(exit_.value.code).splitlines() == [f"underdrawing: {why}" for why in reasons]
    printed = capsys.readouterr().out
    table = json.loads((study.out / "table.json").read_text())
    assert list(table["curves"]) == done
    assert {(d["row"], d["against"]) for d in table["differences"]} == {(done[1], done[0])}
    for text in (printed, (study.out / "table.md").read_text()):
        assert all(why in text for why in reasons)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_gives_the_defaults_and_options_change_it(preset: str) -> None:
    assert module.parse(["--preset", preset]) == PRESETS[preset]()
    changed = module.parse(["--preset", preset, "--steps", "7", "--generator.width", "8"])
    generator = replace(PRESETS[preset]().generator, width=8)
    assert changed == replace(PRESETS[preset](), steps=7, generator=generator)


def test_command_line_has_every_option_that_differs_from_the_preset() -> None:
    generator = GeneratorConfig(width=8, noise=False, base="none")
    study = replace(
        PRESETS["cpu"](), photos=Path("my photos"), out=Path("it's out"), init=None, seeds=7,
        strengths=(0.1, 1.0), matched_gap=0.5, generator=generator,
    )  # fmt: skip
    name, command, *options = command_line(study, "reproduce")
    assert (name, command) == ("underdrawing", "reproduce")
    assert module.parse(options) == study
    assert command_line(quick(), "reproduce")[2:] == ["--preset", "quick"]


@pytest.mark.parametrize("strengths", [(), (0.5, 0.5), (0.5, 1.1), (0.0, 1.0)])
def test_strengths_must_rise_within_0_and_1(strengths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="strengths"):
        replace(quick(), strengths=strengths)
