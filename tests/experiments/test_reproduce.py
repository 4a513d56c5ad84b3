import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments import reproduce as module
from underdrawing.experiments.evaluation import CONTROLS
from underdrawing.experiments.presets import ReproduceConfig, quick
from underdrawing.experiments.reproduce import reproduce
from underdrawing.experiments.table import ROWS
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
    def never(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(module, "evaluate_method", never)
    assert reproduce(config).lines == table.lines


def test_a_retrained_row_is_scored_again(config: ReproduceConfig) -> None:
    config = replace(config, seeds=1)
    reproduce(config)
    scores = config.out / "seed-0" / "attention" / "scores.json"
    before = json.loads(scores.read_text())
    reproduce(replace(config, steps=2))
    assert json.loads(scores.read_text())["of"]["model"] != before["of"]["model"]
