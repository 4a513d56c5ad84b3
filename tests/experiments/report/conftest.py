"""A hand-made result of a study with two rows, three controls and one comparison."""

from collections.abc import Callable
from typing import Any

import pytest
from underdrawing.experiments.analysis.curves import Curve, Difference
from underdrawing.experiments.analysis.results import Section, StudyResult
from underdrawing.experiments.analysis.tables import Column, Entry, Table, TableRow
from underdrawing.metrics.cards import Card
from underdrawing.metrics.scores import Scores

COLUMNS = [
    Column("ssim", "SSIM", True, "ssim"),
    Column("kernel", "KID", False, None, 1),
    Column("frechet", "FID", False, "frechet", 1),
    Column("style_gap", "style gap closed", True, None),
]
CARD = Card("SSIM", "VGG16 <b>", "0123456789abcdef" * 4, 48, "photos", "96 px", "a & b")


def scores(ssim: float, kernel: float, gap: float) -> Scores:
    return Scores(
        ssim=ssim, ssim_worst=0.0, lpips=0.0, frechet=None, kernel=kernel,
        style_gap=gap, pairs=1, outputs=1, left_out=0,
        per_pair={}, photo=[0], painting=[0],
    )  # fmt: skip


def curve(gain: float) -> Curve:
    end = scores(0.5 + gain, 2 - gain, 0.5)
    return Curve((0.0, 0.5, 1.0), (scores(1, 9, 0), scores(0.75 + gain, 3 - gain, 0.25), end))


def table_row(title: str, *ssim: Any, note: str = "", control: bool = False) -> TableRow:
    entries = dict.fromkeys(["ssim", "kernel", "frechet", "style_gap"], Entry(None, None, None))
    return TableRow(title, control, entries | {"ssim": Entry(*ssim)}, note)


@pytest.fixture(scope="session")
def make_result() -> Callable[..., StudyResult]:
    """``make_result(**changes)``."""

    def make(**changes: Any) -> StudyResult:
        rows = [
            table_row("plain", 0.7, 0.02, 0.75),
            table_row("<b>new</b> $a$", 0.9, None, None, note="below minimum"),
            table_row("identity", 1.0, None, None, control=True),
        ]
        zero = TableRow("plain", False, {"kernel": Entry(-0.01, None, None)}, "")
        maps = Table(COLUMNS[:1], [table_row("mapped", 0.125, None, None)], [], [])
        parts: dict[str, Any] = {
            "title": "Loss & row",
            "full": Table(COLUMNS, rows, [CARD], ["<i>note</i>"]),
            "matched": Table(COLUMNS[1:2], [zero], [], []),
            "gap": 0.4,
            "differences": [
                Difference("<b>new</b> $a$", "plain", "ssim", 0.03, 0.01, (0.02, 0.05)),
                Difference("<b>new</b> $a$", "plain", "kernel", -0.1, None, None),
            ],
            "curves": {"plain": [curve(0.1), curve(0.2)], "<b>new</b> $a$": [curve(0), curve(0)]},
            "controls": {
                "identity": scores(1, 9, 0), "color only": scores(0.8, 4, 0.3),
                "style image as output": scores(0.1, -1, 1),
            },
            "skipped": {},
            "sections": [Section("Attention maps", maps, [])],
        }  # fmt: skip
        return StudyResult(**parts | changes)

    return make
