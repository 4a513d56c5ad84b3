"""How the attention maps of a table's rows are: as figures of their training, with their health.

A row whose map is nearly flat is the row with uniform weights under another name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from ..presets import StudyConfig
from ..study.runs import StudyRun, cell_config
from .intervals import mean_and_interval
from .results import Section
from .tables import Column, Entry, Table, TableRow

LAST = 5  # logged lines that are averaged
FLAT = 0.02  # nats; below, no position weighs much more than another
COLUMNS = (
    Column("attention/kl", "KL to uniform, nats", "", None),
    Column("attention/peak", "max A", "", None, 1),
    Column("attention/correlation", "corr(A, E)", "", None, 2),
    Column("loss/attention", "KL of target to A, nats", "", None),
)
NOTE = (
    f"Means over the last {LAST} logged steps, outputs of all strengths; rows with uniform weights "
    f"have no map. “flat”: KL under {FLAT}, next to uniform weights."
)


def maps_section(study: StudyConfig, rows: Mapping[str, Sequence[StudyRun]]) -> list[Section]:
    """The maps of the rows that have one, a mean over seeds each; no section if none has."""
    lines = []
    for title, cells in rows.items():
        seeds = [last_figures(cell_config(study, cell).out) for cell in cells]
        figures = {
            c.key: Entry(*mean_and_interval([seed.get(c.key) for seed in seeds]), None)
            for c in COLUMNS
        }
        if (kl := figures["attention/kl"].measured) is not None:
            lines.append(TableRow(title, False, figures, "flat" if kl < FLAT else ""))
    return [Section("Attention maps", Table(list(COLUMNS), lines, [], [NOTE]), [])] if lines else []


def last_figures(run: Path) -> dict[str, float]:
    """The last logged figures of a run's map; none if it has no map, or its log is elsewhere."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    logged = [record for record in map(json.loads, lines) if "attention/kl" in record]
    return {
        c.key: mean(record[c.key] for record in logged[-LAST:])
        for c in COLUMNS
        if logged and all(c.key in record for record in logged[-LAST:])
    }
