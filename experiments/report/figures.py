"""Figures of a report: content/style curves, and a forest plot of differences between rows.

Drawn for a white background with matplotlib's object API. Colors: Okabe and Ito (2008), safe for
color-blind readers. The same result gives the same bytes.
"""

import io
import math
import re
from collections.abc import Sequence
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...metrics.scores import Scores
from ..analysis.curves import Curve, Difference
from ..analysis.intervals import mean_and_interval
from ..analysis.results import StudyResult
from ..analysis.tables import Column

WIDTH, ACROSS = 7.2, 3  # inches, panels side by side
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "<")
DASHES = ("-", "--", ":")  # rows 8 to 14 are dashed, the next seven dotted
BLUE = COLORS[0]
GUIDE: dict[str, Any] = {"color": "#444444", "linewidth": 0.7, "zorder": 1}
BEYOND = 0.9  # controls that close more of the style gap (the painting itself) are not plotted
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same layout on every machine
    "font.size": 7, "axes.titlesize": 7.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
    "xtick.color": "#888888", "xtick.labelcolor": "black", "ytick.color": "#888888",
    "ytick.labelcolor": "black", "legend.frameon": False, "text.parse_math": False,
    "svg.fonttype": "none", "pdf.fonttype": 42,
}  # fmt: skip


def curves_figure(result: StudyResult) -> Figure:
    """Plot every metric over the style gap closed: rows with 95 % bands, controls as crosses."""
    runs = [curve for seeds in result.curves.values() for curve in seeds]
    columns = [
        column
        for column in result.full.columns
        if column.key != "style_gap" and any(getattr(c.full, column.key) is not None for c in runs)
    ]
    legend = [Line2D([], [], label=name, **row_style(i)) for i, name in enumerate(result.curves)]
    if result.gap is not None:
        legend.append(Line2D([], [], label=f"matched gap, {result.gap:.3f}", **GUIDE))
    with rc_context(STYLE):
        figure, panels = make_panels(columns, 1.9, legend)
        for column, axes in zip(columns, panels, strict=True):
            axes.set_xlabel("style gap closed")
            axes.margins(0.06, 0.1)
            for i, seeds in enumerate(result.curves.values()):
                plot_curve(axes, seeds, column.key, i)
            for name, scores in result.controls.items():
                plot_control(axes, name, scores, column.key)
            if result.gap is not None:
                axes.axvline(result.gap, **GUIDE)
    return figure


def row_style(i: int) -> dict[str, Any]:
    """Return color, marker and dash of row ``i``."""
    return {
        "color": COLORS[i % 7], "marker": MARKERS[i % 7], "linestyle": DASHES[i // 7 % 3],
        "linewidth": 1.1, "markersize": 3.2, "markeredgecolor": "white", "markeredgewidth": 0.4,
    }  # fmt: skip


def plot_curve(axes: Axes, seeds: Sequence[Curve], key: str, i: int) -> None:
    """Plot row ``i``: the means over seeds at each strength, and the metric's 95 % band."""
    strengths = list(zip(*(curve.scores for curve in seeds), strict=True))
    gaps = [np.mean([scores.style_gap for scores in at]) for at in strengths]
    values = [mean_and_interval([getattr(scores, key) for scores in at]) for at in strengths]
    mean, half = np.array(values, dtype=float).T  # None becomes NaN, which interrupts the line
    axes.plot(gaps, mean, **row_style(i))
    axes.fill_between(gaps, mean - half, mean + half, color=COLORS[i % 7], alpha=0.15, linewidth=0)


def plot_control(axes: Axes, name: str, scores: Scores, key: str) -> None:
    """Plot a control as a cross, labeled on the side of the curves that is free."""
    x, y = scores.style_gap, getattr(scores, key)
    if y is None or x > BEYOND:
        return
    first, *_, last = np.asarray(axes.lines[0].get_ydata())
    left, right = axes.get_xlim()
    at_edge = x > left + 0.75 * (right - left)
    above = (last < first) != at_edge  # a falling curve leaves its upper right and lower left free
    axes.plot([x], [y], "x", color="black", markersize=4, markeredgewidth=0.9)
    axes.annotate(
        name, (x, y), (-4 if at_edge else 4, 3 if above else -3), textcoords="offset points",
        ha="right" if at_edge else "left", va="bottom" if above else "top", size=6, style="italic",
    )  # fmt: skip


def differences_figure(result: StudyResult) -> Figure:
    """Plot the differences between rows as a forest plot: a panel per metric with all pairs."""
    columns = [c for c in result.full.columns if any(d.key == c.key for d in result.differences)]
    pairs = list(dict.fromkeys((d.row, d.against) for d in result.differences))
    names = [f"{fill(row, 32)}\n{fill(f'vs. {against}', 32)}" for row, against in pairs]
    lines = len(pairs) * (1.2 + max(name.count("\n") for name in names))
    legend = [
        Line2D([], [], color=BLUE, linewidth=3.5, alpha=0.35, label="95 % interval over seeds"),
        Line2D([], [], color=BLUE, linewidth=0.9, label="95 % interval over pairs"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="all intervals exclude zero"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", mfc="white", label="not significant"),
    ]
    with rc_context(STYLE):
        figure, panels = make_panels(columns, 0.7 + 0.13 * lines, legend, sharey=True)
        for column, axes in zip(columns, panels, strict=True):
            found = {(d.row, d.against): d for d in result.differences if d.key == column.key}
            plot_differences(axes, list(found.values()), [pairs.index(pair) for pair in found])
            axes.set_yticks(range(len(pairs)), names)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            if column.higher_is_better:
                axes.set_xlabel("better →", loc="right")
            elif column.higher_is_better is not None:
                axes.set_xlabel("← better", loc="left")
    return figure


def plot_differences(axes: Axes, differences: Sequence[Difference], y: Sequence[int]) -> None:
    """Plot differences at heights ``y``: seed interval (thick), pair interval (thin), dot."""
    mean, half = np.array([(d.mean, d.half_interval) for d in differences], dtype=float).T
    low, high = np.array([d.pairs_interval or (None, None) for d in differences], dtype=float).T
    axes.axvline(0, **GUIDE)
    axes.hlines(y, mean - half, mean + half, color=BLUE, linewidth=3.5, alpha=0.35)
    axes.hlines(y, low, high, color=BLUE, linewidth=0.9)
    faces = [BLUE if d.significant else "white" for d in differences]
    axes.scatter(mean, y, s=16, c=faces, edgecolors=BLUE, zorder=3)
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+.2g}".replace("-", "−") if x else "0")


def make_panels(
    columns: Sequence[Column], height: float, legend: Sequence[Line2D], sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make one titled panel per metric, each ``height`` inches with its labels, over a legend."""
    across = min(ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    entry = 0.45 + 0.05 * max(len(str(handle.get_label())) for handle in legend)  # inches
    legend_columns = min(4, max(1, int(WIDTH / entry)))
    legend_height = 0.15 * math.ceil(len(legend) / legend_columns)
    figure = Figure((WIDTH, down * height + legend_height + 0.15), layout="constrained")
    figure.legend(handles=legend, loc="outside lower center", ncols=legend_columns)
    grid = figure.subplots(down, across, squeeze=False, sharey=sharey).ravel().tolist()
    for axes in grid[len(columns) :]:
        axes.remove()
    for column, axes in zip(columns, grid, strict=False):
        axes.set_title(fill(f"{column.title}\N{NO-BREAK SPACE}{column.arrow}", 30))
    return figure, grid[: len(columns)]


def render(figure: Figure, kind: Literal["svg", "pdf"], name: str) -> bytes:
    """Return a figure as an SVG or PDF file without a date; ``name`` makes its ids unique."""
    buffer, date = io.BytesIO(), {"svg": "Date", "pdf": "CreationDate"}[kind]
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, metadata={date: None})
    return buffer.getvalue()


def inline(svg: bytes) -> str:
    """Return an SVG file as an element of HTML: without prolog, metadata and ids of groups."""
    element = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", svg.decode(), flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", element)
