import json
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments.analysis.attention import LAST, attention_section
from underdrawing.experiments.recipes import RECIPES
from underdrawing.losses.attention import collapse_warning
from underdrawing.trainers.config import to_json

CONFIG = RECIPES["attention"]()


def write_run(run: Path, kl: float | None, budget: float = CONFIG.attention.budget) -> Path:
    """Write config and log of a run; ``kl`` is that of the last logged lines."""
    run.mkdir()
    config = replace(CONFIG, attention=replace(CONFIG.attention, budget=budget))
    (run / "config.json").write_text(to_json(config))
    lines: list[dict[str, float]] = [{"step": 0, "loss/content": 1.0}]
    last = 12 if kl is not None else 0
    for step in range(1, last + 1):
        values = {
            "kl": (kl or 0.0) if step > last - LAST else 9.0, "peak": 3.0, "prediction": 0.25,
        }  # fmt: skip
        if step <= last - LAST:  # before the branch learns alone
            values["correlation"] = 0.5 if step > last - 2 * LAST else 0.0
        lines.append({"step": step} | {f"attention/{k}": v for k, v in values.items()})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_rows_are_means_of_the_last_lines_over_seeds_and_rows_without_a_map_are_left_out(
    tmp_path: Path,
) -> None:
    without = [write_run(tmp_path / "m", None), tmp_path / "elsewhere"]
    seeds = [write_run(tmp_path / "a0", 0.2), write_run(tmp_path / "a1", 0.4)]
    (section,) = attention_section({"attention": seeds, "multi-layer": without})
    (row,) = section.table.rows
    assert (row.title, row.note) == ("attention", "")
    found = {key: entry.measured for key, entry in row.entries.items()}
    assert found == pytest.approx({
        "attention/kl": 0.3, "attention/peak": 3.0, "attention/correlation": 0.5,
        "attention/prediction": 0.25,
    })  # fmt: skip
    assert row.entries["attention/kl"].half_interval is not None
    assert attention_section({"multi-layer": without}) == []


@pytest.mark.parametrize("budget", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("kl", [0.001, 0.01, 0.06, 0.2])
def test_flat_means_what_training_warns_about(kl: float, budget: float, tmp_path: Path) -> None:
    (section,) = attention_section({"row": [write_run(tmp_path / "run", kl, budget)]})
    warned = collapse_warning(peak=1.0, kl=kl, positions=64, budget=budget) or ""
    assert section.table.rows[0].note == ("flat" if "flat" in warned else "")
