"""Charts of a report: content/style curves, and differences with their intervals."""

import math
from collections.abc import Sequence

import numpy as np

from .charts import Point, Series, line_chart
from .comparison import Curve
from .findings import UNMATCHED, Findings
from .forest import Estimate, interval_chart
from .statistics import mean_and_interval
from .table import Column

STYLE = "style gap closed"


def curve_charts(findings: Findings) -> list[str]:
    """One chart a figure: all rows' curves against the style gap, the controls as points."""
    return [
        line_chart(
            [series(name, seeds, column.key) for name, seeds in findings.curves.items()],
            STYLE,
            f"{column.title} {column.better}",
            [
                Point(name, scores.style_gap, getattr(scores, column.key))
                for name, scores in findings.controls.items()
            ],
            at=findings.at,
            at_label="compared here",
        )
        for column in measured_columns(findings)
    ]


def series(name: str, seeds: Sequence[Curve], key: str) -> Series:
    """A row's mean curve over its seeds, strength by strength, with their interval."""
    gaps = np.mean([curve.figure("style_gap") for curve in seeds], axis=0)
    values = zip(*(curve.figure(key).tolist() for curve in seeds), strict=True)
    means, halves = zip(*(mean_and_interval(at) for at in values), strict=True)
    return Series(name, gaps.tolist(), means, halves)


def difference_charts(findings: Findings) -> list[str]:
    """One chart a figure: every comparison with its intervals."""
    charts = []
    for column in measured_columns(findings):
        estimates = [
            Estimate(
                f"{d.row} less {d.against}", d.mean, d.half_interval, d.pairs_interval, d.decided
            )
            for d in findings.differences
            if d.key == column.key
        ]
        if estimates:
            charts.append(
                interval_chart(estimates, f"difference in {column.title} {column.better}")
            )
    return charts


def measured_columns(findings: Findings) -> list[Column]:
    """The figures that some row has and that can be compared at a style gap."""
    return [
        column
        for column in findings.full.columns
        if column.key not in UNMATCHED
        and any(
            not math.isnan(value)
            for seeds in findings.curves.values()
            for curve in seeds
            for value in curve.figure(column.key)
        )
    ]
