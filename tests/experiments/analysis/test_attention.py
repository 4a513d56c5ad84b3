import json
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments.analysis.attention import LAST, last_figures, maps_section
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study.runs import StudyRun, cell_config


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return replace(quick(), out=tmp_path, device="cpu")


def write_log(run: Path, kl: float, steps: int = 8) -> None:
    """A log whose last lines have this KL, and whose first ones have not."""
    run.mkdir(parents=True)
    lines = [{"step": 0, "loss/content": 1.0}]  # logged before there was a map
    for step in range(1, steps + 1):
        settled = step > steps - LAST
        figures = {"kl": kl if settled else 9.0, "peak": 3.0, "correlation": 0.5}
        lines.append({f"attention/{name}": value for name, value in figures.items()})
        lines[-1] |= {"step": step, "loss/attention": 0.25}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_last_figures_count(tmp_path: Path) -> None:
    write_log(tmp_path / "run", 0.125)
    assert last_figures(tmp_path / "run") == {
        "attention/kl": 0.125, "attention/peak": 3.0, "attention/correlation": 0.5,
        "loss/attention": 0.25,
    }  # fmt: skip


def test_a_run_without_a_map_or_a_log_has_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/content": 1.0}\n')
    assert last_figures(tmp_path) == {}
    assert last_figures(tmp_path / "elsewhere") == {}


def test_rows_are_means_over_seeds_and_flat_maps_are_marked(study: StudyConfig) -> None:
    rows = {}
    recipes = {"attention": (0.2, 0.4), "naive-attention": (0.001, 0.003), "multi-layer": ()}
    for name, kls in recipes.items():
        rows[name] = [StudyRun(name, RECIPES[name](), seed) for seed in range(2)]
        for cell, kl in zip(rows[name], kls, strict=False):
            write_log(cell_config(study, cell).out, kl)
    (section,) = maps_section(study, rows)
    sharp, flat = section.table.lines
    assert (sharp.title, sharp.note) == ("attention", "")
    assert (flat.title, flat.note) == ("naive-attention", "flat")
    assert sharp.figures["attention/kl"].measured == pytest.approx(0.3)
    assert sharp.figures["attention/kl"].half_interval is not None


def test_where_no_row_has_a_map_there_is_no_section(study: StudyConfig) -> None:
    rows = {"uniform": [StudyRun("uniform", RECIPES["multi-layer"](), 0)]}
    assert maps_section(study, rows) == []
