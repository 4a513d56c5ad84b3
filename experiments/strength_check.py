"""Does a model of all strengths match, at one of them, a model trained at that one alone?

The axis ``strength`` trains both; here they are compared pair by pair at the same strength, not at
matched style. The margins were stated before anything was measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..data.files import write_atomic
from .axes import variants
from .comparison import Curve
from .presets import Study
from .statistics import percentile_interval, resampled_means
from .table import markdown

MARGINS = {"style_gap": 0.03, "ssim": 0.03, "lpips": None}


@dataclass(frozen=True)
class Match:
    """A figure of the model of all strengths, less that of the model of one."""

    strength: float
    figure: str
    difference: float  # mean over pairs and seeds
    interval: tuple[float, float] | None  # 95 %, bootstrap of photos and paintings
    margin: float | None  # at most so far apart, either way

    @property
    def holds(self) -> str:
        """Whether the difference is within the margin, in words."""
        return "" if self.margin is None else "yes" if abs(self.difference) <= self.margin else "no"


def check_strengths(study: Study) -> None:
    """Refuse a study that does not score at the strengths to compare at.

    Raises:
        ValueError: see above.
    """
    if missing := set(_alone().values()) - set(study.strengths):
        listed = " and ".join(f"{s:g}" for s in sorted(missing))
        raise ValueError(f"axis strength compares at {listed}, too: add it to --strengths")


def matches(rows: Mapping[str, Sequence[Curve]]) -> list[Match]:
    """Compare, as far as the rows of the axis are there."""
    baseline = variants(["strength"]).baseline
    return [
        _match(rows[baseline], rows[title], strength, figure)
        for title, strength in _alone().items()
        if title in rows and baseline in rows
        for figure in MARGINS
    ]


def _alone() -> dict[str, float]:
    """Rows of the axis that train one strength alone -> it."""
    recipes = variants(["strength"]).recipes
    return {title: r.strength for title, r in recipes.items() if r.full_strength == 1}


def _match(ours: Sequence[Curve], theirs: Sequence[Curve], strength: float, figure: str) -> Match:
    at, scores = ours[0].strengths.index(strength), ours[0].scores[0]
    both = [
        np.array([curve.scores[at].per_pair[figure] for curve in row]) for row in (ours, theirs)
    ]
    mean = (both[0] - both[1]).mean(axis=0)  # (N,), over seeds
    interval = percentile_interval(resampled_means(mean, scores.photo, scores.painting))
    return Match(strength, figure, float(np.nanmean(mean)), interval, MARGINS[figure])


def write_check(found: Sequence[Match], folder: Path) -> None:
    """Write ``check.md`` and ``check.json``."""
    write_atomic(folder / "check.md", check_markdown(found))
    records = [asdict(match) | {"holds": match.holds} for match in found]
    write_atomic(folder / "check.json", json.dumps(records, indent=1))


def check_markdown(found: Sequence[Match]) -> str:
    """The comparison as a Markdown table."""
    rows = [["strength", "figure", "difference", "95 % over pairs", "margin", "within"]]
    for m in found:
        interval = "–" if m.interval is None else f"{m.interval[0]:+.3f} … {m.interval[1]:+.3f}"
        margin = "–" if m.margin is None else f"± {m.margin:g}"
        rows.append(
            [f"{m.strength:g}", m.figure, f"{m.difference:+.3f}", interval, margin, m.holds]
        )
    title = "# The model of all strengths, less the model of one, at that one"
    return f"{title}\n\n{markdown(rows)}\n"
