import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from underdrawing.experiments import reproduce as module
from underdrawing.experiments.evaluation import CONTROLS, Method, evaluate_methods
from underdrawing.experiments.presets import ReproduceConfig, quick
from underdrawing.experiments.reproduce import reproduce
from underdrawing.experiments.table import ROWS
from underdrawing.metrics.judges import Scores
from underdrawing.trainers.config import GeneratorConfig


@pytest.fixture
def config(offline: None, folders: tuple[Path, Path], tmp_path: Path) -> ReproduceConfig:
    return replace(
        quick(), photos=folders[0], paintings=folders[1], out=tmp_path / "out", warmup=2, steps=1,
        size=32, batch_size=2, seeds=2, pairs=4, workers=0, device="cpu",
        json=tmp_path / "figures.json", generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip


def test_every_row_and_control_is_trained_scored_and_shown(
    config: ReproduceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = reproduce(config)
    assert [line.title for line in table.lines] == [row.title for row in ROWS] + list(CONTROLS)
    ours = table.lines[0].figures["ssim"]
    assert ours.paper == 0.72
    assert ours.half_interval is not None  # two seeds
    written = {"table.md", "table.csv", "table.json", "report.html", "manifest.json"}
    assert written <= {path.name for path in config.out.iterdir()}
    assert json.loads((config.out / "table.json").read_text()) == json.loads(
        (config.out.parent / "figures.json").read_text()
    )
    with (config.out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["row"] for row in rows} == {line.title for line in table.lines}
    page = (config.out / "report.html").read_text()
    assert all(row.title in page for row in ROWS)

    # Again: everything is kept, nothing is trained or scored a second time.
    scored = spy_on_scoring(monkeypatch)
    assert reproduce(config).lines == table.lines
    assert scored == []

    # One row's scores lost: it alone is scored again.
    run = config.out / "seed-1" / "attention"
    kept = (run / "scores.json").read_text()
    (run / "scores.json").unlink()
    assert reproduce(config).lines == table.lines
    assert scored == [str(run)]
    assert (run / "scores.json").read_text() == kept


def spy_on_scoring(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all methods scored from now on."""
    scored: list[str] = []

    def spy(methods: Mapping[str, Method], *rest: Any) -> dict[str, Scores]:
        scored.extend(methods)
        return evaluate_methods(methods, *rest)

    monkeypatch.setattr(module, "evaluate_methods", spy)
    return scored


def test_only_what_changed_is_scored_again(
    config: ReproduceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, seeds=1)
    reproduce(config)
    scores = config.out / "seed-0" / "attention" / "scores.json"
    before = json.loads(scores.read_text())
    scored = spy_on_scoring(monkeypatch)
    reproduce(replace(config, steps=2))
    assert json.loads(scores.read_text())["of"]["model"] != before["of"]["model"]
    assert scored == [str(config.out / "seed-0" / row.recipe) for row in ROWS]
