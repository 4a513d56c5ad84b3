import json
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments.analysis.attention import LAST, attention_section, last_statistics
from underdrawing.experiments.recipes import RECIPES
from underdrawing.losses.attention import collapse_warning
from underdrawing.trainers.config import to_json

BUDGET = RECIPES["attention"]().attention.budget


def write_run(run: Path, kl: float | None, budget: float = BUDGET) -> Path:
    """Write config and log of a run; ``kl`` is that of the last logged lines."""
    run.mkdir()
    config = RECIPES["attention"]()
    config = replace(config, attention=replace(config.attention, budget=budget))
    (run / "config.json").write_text(to_json(config))
    lines: list[dict[str, float | None]] = [{"step": 0, "loss/content": 1.0}]
    for step in range(1, 9 if kl is not None else 1):
        values = {
            "kl": kl if step > 8 - LAST else 9.0,
            "peak": 3.0,
            "correlation": 0.5,
            "prediction": 0.25,
        }
        lines.append({"step": step})
        lines[-1] |= {f"attention/{name}": value for name, value in values.items()}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_last_logged_lines_are_averaged(tmp_path: Path) -> None:
    assert last_statistics(write_run(tmp_path / "run", 0.125)) == {
        "attention/kl": 0.125, "attention/peak": 3.0, "attention/correlation": 0.5,
        "attention/prediction": 0.25,
    }  # fmt: skip


def test_run_without_map_or_log_has_no_statistics(tmp_path: Path) -> None:
    assert last_statistics(write_run(tmp_path / "uniform", None)) == {}
    assert last_statistics(tmp_path / "elsewhere") == {}


def test_rows_are_means_over_seeds_and_rows_without_a_map_are_left_out(tmp_path: Path) -> None:
    runs = {
        "attention": [write_run(tmp_path / "a0", 0.2), write_run(tmp_path / "a1", 0.4)],
        "multi-layer": [write_run(tmp_path / "m", None), tmp_path / "elsewhere"],
    }
    (section,) = attention_section(runs)
    (row,) = section.table.rows
    assert (row.title, row.note) == ("attention", "")
    assert row.entries["attention/kl"].measured == pytest.approx(0.3)
    assert row.entries["attention/kl"].half_interval is not None
    assert attention_section({"multi-layer": runs["multi-layer"]}) == []


@pytest.mark.parametrize("budget", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("kl", [0.001, 0.01, 0.06, 0.2])
def test_flat_means_what_training_warns_about(kl: float, budget: float, tmp_path: Path) -> None:
    (section,) = attention_section({"row": [write_run(tmp_path / "run", kl, budget)]})
    warned = collapse_warning(peak=1.0, kl=kl, positions=64, budget=budget) or ""
    assert section.table.rows[0].note == ("flat" if "flat" in warned else "")
