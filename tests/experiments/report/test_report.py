import sys
from dataclasses import dataclass, replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from underdrawing.experiments.analysis.curves import Curve, Difference
from underdrawing.experiments.analysis.results import StudyResult
from underdrawing.experiments.analysis.tables import FOOTNOTE, ROWS, Column, Entry, Table, TableRow
from underdrawing.experiments.report.report import Chapter, write_report
from underdrawing.experiments.report.report.samples import ImageLike
from underdrawing.experiments.report_figures import curve_charts, difference_charts
from underdrawing.metrics.cards import Card
from underdrawing.metrics.scores import Scores

EVIL = "<script>alert('row')</script> & co"
SHA = "0123456789abcdef" * 4
VOID = {"meta", "img"}
SSIM = Column("ssim", "SSIM", "↑", "ssim")
FRECHET = Column("frechet", "Fréchet", "↓", None, 1)


@dataclass(frozen=True)
class Config:
    preset: str = "quick"
    photos: Path = Path("<photos>")


class Reader(HTMLParser):
    """Collects tags, addresses and rows; fails on tags that do not pair up."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.rows: list[str] = []  # text of each table row
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "tr" in self.open:
            self.rows[-1] += data + "|"


def make_table_row(title: str, figure: Entry, note: str = "", control: bool = False) -> TableRow:
    return TableRow(title, control, {"ssim": figure, "frechet": Entry(None, None, None)}, note)


def make_table() -> Table:
    lines = [make_table_row(row.title, Entry(0.7, 0.02, 0.75)) for row in ROWS]
    lines[1] = make_table_row(ROWS[1].title, Entry(0.9, None, 0.85), "did not stylize")
    lines.append(make_table_row(EVIL, Entry(1.0, None, None), control=True))
    card = Card("SSIM", "VGG16 <b>", SHA, 48, "the photo of each pair", "96 px", "a & b")
    return Table([SSIM, FRECHET], lines, [card], ["<i>note</i>", FOOTNOTE])


def make_curve(gain: float) -> Curve:
    def scores(strength: float) -> Scores:
        return Scores(
            ssim=1 - strength * (0.5 - gain), ssim_worst=1 - strength, lpips=strength / 2,
            frechet=None, kernel=None, frechet_photos=None, style_gap=strength / 2, pairs=1,
            left_out=0, per_pair={}, photo=[0], painting=[0],
        )  # fmt: skip

    strengths = (0.0, 0.5, 1.0)
    return Curve(strengths, tuple(map(scores, strengths)))


def make_study_result() -> StudyResult:
    curves = {row.title: [make_curve(0.1), make_curve(0.2)] for row in ROWS}
    matched = [TableRow(ROWS[0].title, False, {"ssim": Entry(0.66, 0.01, None)}, "not reached")]
    differences = [Difference(ROWS[1].title, ROWS[0].title, "ssim", 0.03, 0.01, (0.02, 0.05))]
    return StudyResult(
        "Rows & rows", make_table(), Table([SSIM._replace(paper=None)], matched, [], ["at 0.40"]),
        0.4, differences, curves, {EVIL: make_curve(0.0).scores[0]}, {},
    )  # fmt: skip


def make_picture() -> ImageLike:
    outputs = {row.title: torch.rand(3, 16, 16) for row in ROWS}
    maps = {ROWS[3].title: torch.rand(1, 2, 2), ROWS[4].title: torch.rand(1, 2, 2)}
    return ImageLike(torch.rand(3, 16, 16), torch.rand(3, 16, 16), outputs, maps)


@pytest.fixture
def html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["/some/where/underdrawing", "reproduce", "--out", "a b"])
    torch.manual_seed(0)
    path = tmp_path / "new" / "report.html"
    chapter = Chapter(make_study_result(), [make_picture(), make_picture()])
    write_report(path, "The table", "What it is.", [chapter], Config())
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def row_of(page: Reader, title: str) -> str:
    return next(row for row in page.rows if row.split("|")[0].strip() == title)


def test_every_tag_is_closed(page: Reader) -> None:
    assert page.open == []
    assert page.tags.count("html") == page.tags.count("h1") == 1
    assert page.tags.count("table") == 2  # at full strength, at matched style


def test_all_rows_and_notes_are_there(page: Reader) -> None:
    for row in ROWS:
        assert row_of(page, row.title)
        assert page.text.count(row.title) >= 3  # in the table and under a picture of either pair
    assert FOOTNOTE in page.text
    assert "<i>note</i>" in page.text


def test_text_is_escaped(html: str, page: Reader) -> None:
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert escape(EVIL) in html
    assert EVIL in page.text


def test_pictures_are_inside_the_page(page: Reader) -> None:
    assert len(page.images) == 2 * (2 + len(ROWS) + 2)
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)


def test_nothing_is_loaded_from_elsewhere(html: str, page: Reader) -> None:
    assert not {"script", "link", "iframe", "base"} & set(page.tags)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "url(" not in html
    assert "@import" not in html


def test_only_marked_rows_wear_the_badge(page: Reader) -> None:
    marked = [row for row in page.rows if "did not stylize" in row]
    assert marked == [row_of(page, ROWS[1].title)]


def test_figures_of_a_row(page: Reader) -> None:
    assert row_of(page, ROWS[0].title) == f"{ROWS[0].title}|0.75|0.700|± 0.020|−0.050|n/a|"
    assert row_of(page, EVIL) == f"{EVIL}|–|1.000|–|n/a|"


def test_card_shows_a_short_digest_and_keeps_the_whole(html: str, page: Reader) -> None:
    assert SHA[:12] in page.text
    assert SHA not in page.text
    assert SHA in html


def test_command_versions_and_configuration_are_there(page: Reader) -> None:
    assert "underdrawing reproduce --out 'a b'" in page.text
    assert "/some/where" not in page.text
    assert '"torch":' in page.text
    assert '"photos": "<photos>"' in page.text


def test_figures_beside_the_papers_are_all_alike(html: str) -> None:
    """The paper states no interval: no difference from it is beyond doubt, whatever its size."""
    body = html[html.index("<tbody>") : html.index("</table>")]
    assert "−0.050" in body
    assert "+0.050" in body
    classes = {name for part in body.split('class="')[1:] for name in part.split('"')[0].split()}
    assert classes == {
        "row", "badge", "from-paper", "starts", "interval", "none", "controls", "group"
    }  # fmt: skip
    style = html[: html.index("</style>")]
    assert not any(f".{name} {{" in style for name in ("measured", "better", "worse"))


def test_curves_have_a_chart_for_every_figure_that_was_measured(html: str) -> None:
    result = make_study_result()
    assert len(curve_charts(result)) == 1  # SSIM; the Fréchet distance is not compared
    (chart,) = curve_charts(result)
    assert chart in html
    assert all(escape(name) in chart for name in (*result.curves, EVIL))
    assert "compared here" in chart


def test_differences_are_drawn_by_figure(html: str) -> None:
    (chart,) = difference_charts(make_study_result())
    assert chart in html
    assert f"{ROWS[1].title} less {ROWS[0].title}" in chart


@pytest.mark.parametrize("pairs", [(0.02, 0.05), (-0.01, 0.05), None])
def test_a_chart_calls_settled_what_the_table_calls_decided(
    pairs: tuple[float, float] | None,
) -> None:
    found = Difference(ROWS[1].title, ROWS[0].title, "ssim", 0.03, 0.01, pairs)
    (chart,) = difference_charts(replace(make_study_result(), differences=[found]))
    assert ("name settled" in chart) == found.decided == (pairs == (0.02, 0.05))


def test_rows_that_do_not_reach_the_common_style_say_so(page: Reader) -> None:
    assert any("not reached" in row and "0.660" in row for row in page.rows)
