"""Statistics of the attention maps of a table's rows, from the logs of their training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from ...losses.attention import FLAT
from ...trainers.model_files import load_config
from .intervals import mean_and_interval
from .results import Section
from .tables import Column, Entry, Table, TableRow

LAST = 5  # logged lines to average
COLUMNS = (
    Column("attention/kl", "KL to uniform, nats", None, None),
    Column("attention/peak", "max A", None, None, 1),
    Column("attention/correlation", "corr(A, E)", None, None, 2),
    Column("attention/prediction", "corr(g, q)", None, None, 2),
)
NOTE = (
    f"Means over the last {LAST} logged steps; rows with uniform weights have no map. corr(A, E): "
    "of A and the content error of the output, at all strengths, before the branch learns alone. "
    "corr(g, q): of the predicted and the measured log error, on training photos. "
    f"“flat”: KL under {FLAT} × attention.budget, indistinguishable from uniform."
)


def attention_section(runs: Mapping[str, Sequence[Path]]) -> list[Section]:
    """Tabulate the rows that have a map, from run directories per seed; no section if none has."""
    rows = []
    for title, dirs in runs.items():
        seeds = [last_statistics(path) for path in dirs]
        entries = {
            c.key: Entry(*mean_and_interval([seed.get(c.key) for seed in seeds]), None)
            for c in COLUMNS
        }
        if (kl := entries["attention/kl"].measured) is not None:
            budget = load_config(dirs[0]).attention.budget
            rows.append(TableRow(title, False, entries, "flat" if kl < FLAT * budget else ""))
    return [Section("Attention maps", Table(list(COLUMNS), rows, [], [NOTE]), [])] if rows else []


def last_statistics(run: Path) -> dict[str, float]:
    """Return the last logged statistics of a run's map; none without a map or a log."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    records = [json.loads(line) for line in lines]
    logged = {c.key: [record[c.key] for record in records if c.key in record] for c in COLUMNS}
    return {key: mean(values[-LAST:]) for key, values in logged.items() if values}
