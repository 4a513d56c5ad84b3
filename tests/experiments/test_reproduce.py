import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from underdrawing.experiments import scorer as module
from underdrawing.experiments.analysis.tables import ROWS
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.reproduce import reproduce
from underdrawing.experiments.scoring.protocol import CONTROLS, Stylizer, score_painter
from underdrawing.experiments.study.runs import StudyRun, cell_config, warmup_config
from underdrawing.metrics.scores import Scores
from underdrawing.trainers.config import GeneratorConfig


@pytest.fixture
def study(
    offline: None, single_network: None, folders: tuple[Path, Path], tmp_path: Path
) -> StudyConfig:
    return replace(
        quick(), photos=folders[0], paintings=folders[1], out=tmp_path / "out", warmup=2, steps=1,
        size=32, batch_size=2, seeds=2, pairs=4, strengths=(0.5, 1.0), workers=0, device="cpu",
        matched_gap=0.001, json=tmp_path / "figures.json",
        generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip


def cell(recipe: str, seed: int = 0) -> StudyRun:
    return StudyRun(recipe, RECIPES[recipe](), seed)


def test_every_row_and_control_is_trained_scored_and_shown(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = reproduce(study)
    lines = result.full.lines
    assert [line.title for line in lines] == [row.title for row in ROWS] + list(CONTROLS)
    assert [line.title for line in result.matched.lines] == [row.title for row in ROWS]
    ours = lines[0].figures["ssim"]
    assert ours.paper == 0.72
    assert ours.half_interval is not None  # two seeds
    titles = {row.recipe: row.title for row in ROWS}
    assert {(d.row, d.against) for d in result.differences} == {
        (row.title, titles[other]) for row in ROWS for other in row.against
    }
    assert ("+ attention", "content, multi-layer") in {  # the primary endpoint's
        (d.row, d.against) for d in result.differences
    }
    written = {"table.md", "table.tex", "table.csv", "table.json", "report.html", "manifest.json"}
    assert written <= {path.name for path in study.out.iterdir()}
    assert json.loads((study.out / "table.json").read_text()) == json.loads(
        (study.out.parent / "figures.json").read_text()
    )
    with (study.out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["row"] for row in rows} == {line.title for line in lines}
    page = (study.out / "report.html").read_text()
    assert all(row.title in page for row in ROWS)

    # Again: everything is kept, nothing is trained or scored a second time.
    scored = spy_on_scoring(monkeypatch)
    assert reproduce(study).full == result.full
    assert scored == []

    # One row's scores lost: it alone is scored again.
    lost = cell_config(study, cell("attention", 1)).out.name
    kept = study.out / "scores" / study.split / f"{lost}.json"
    before = json.loads(kept.read_text())["scores"]
    kept.unlink()
    assert reproduce(study).full == result.full
    assert len(scored) == 1
    assert json.loads(kept.read_text())["scores"] == before


def spy_on_scoring(monkeypatch: pytest.MonkeyPatch) -> list[Stylizer]:
    """Whatever is scored from now on."""
    scored: list[Stylizer] = []

    def spy(stylizer: Stylizer, *rest: Any) -> Mapping[str, Scores]:
        scored.append(stylizer)
        return score_painter(stylizer, *rest)

    monkeypatch.setattr(module, "score_painter", spy)
    return scored


def test_with_more_steps_the_rows_are_others_and_the_start_is_the_same(study: StudyConfig) -> None:
    longer = replace(study, steps=2)
    for row in ROWS:
        one = cell(row.recipe)
        assert cell_config(study, one).out != cell_config(longer, one).out
        assert warmup_config(study, one) == warmup_config(study, cell("multi-layer"))
        assert warmup_config(longer, one).out == warmup_config(study, one).out
