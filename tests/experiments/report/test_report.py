"""The page of a study holds all its numbers and images, escaped, and loads nothing."""

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from underdrawing.experiments.analysis.results import StudyResult
from underdrawing.experiments.report.report import Chapter, write_report
from underdrawing.experiments.report.samples import Sample

Make = Callable[..., StudyResult]
VOID = {"meta", "img"}
NEW = "<b>new</b> $a$"
COMMAND = ["underdrawing", "reproduce", "--out", "a b"]
SHA256 = {"photos": "0f" * 32, "initial model": None}


@dataclass(frozen=True)
class Config:
    preset: str = "quick"
    photos: Path = Path("<photos>")


class Page(HTMLParser):
    """Collects tags, attributes, text and table rows; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open, self.tags = html, list[str](), list[str]()
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []  # cells of each row of a table
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def sample() -> Sample:
    outputs = {"plain": torch.rand(3, 16, 16), NEW: torch.rand(3, 16, 16)}
    return Sample(torch.rand(3, 16, 16), torch.rand(3, 16, 16), outputs, {NEW: torch.ones(1, 2, 2)})


def write(path: Path, *results: StudyResult, samples: Sequence[Sample] = ()) -> Page:
    chapters = [Chapter(result, list(samples)) for result in results]
    write_report(path, "Title", "Lede <.", chapters, Config(), COMMAND, SHA256)
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(make_result: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/some/where/underdrawing", "reproduce"])
        write(folder / "report.html", make_result(), samples=[sample(), sample()])
    return folder


@pytest.fixture
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_tables_show_paper_measured_interval_difference(page: Page) -> None:
    plain = "plain|0.75|0.700± 0.020|−0.050|n/a|–|n/a|–|n/a"
    assert page.rows[2] == plain.split("|")
    assert page.rows[3][:4] == [f"{NEW} below minimum", "–", "0.900", "–"]
    assert ["plain", "0.0"] in page.rows  # at matched style, without a negative zero
    assert ["mapped", "–", "0.125", "–"] in page.rows  # of a section
    assert [NEW, "plain", "SSIM ↑", "+0.030", "± 0.010", "+0.020 … +0.050", "better"] in page.rows
    _, controls = page.html.split('<tbody class="control">')  # which alone are in italics
    body = Page(controls[: controls.index("</tbody>")])
    assert [row[0] for row in body.rows] == ["identity"]


def test_text_is_escaped_and_nothing_is_loaded(page: Page) -> None:
    assert not {"b", "i", "script", "link", "iframe", "base", "object"} & set(page.tags)
    assert all(text in page.text for text in ("<i>note</i>", "VGG16 <b>", "Lede <.", NEW))
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.all("src"))
    assert not any(text in page.html for text in ("url(http", "@import", 'href="http'))


def test_samples_are_images_with_descriptions(page: Page) -> None:
    assert page.all("alt") == [
        "photo", "painting", "output of plain", f"output of {NEW}", f"A of {NEW}"
    ] * 2  # fmt: skip


def test_figures_are_inline_and_linked_files(page: Page, folder: Path) -> None:
    assert page.tags.count("svg") == 2
    assert len(page.all("id")) == len(set(page.all("id")))
    files = page.all("href")
    assert {"paper/curves.pdf", "paper/differences.svg"} <= set(files)
    for file in (name for name in files if name.startswith("paper")):
        assert (folder / file).stat().st_size > 1000


def test_origin_of_the_numbers_is_shown(page: Page) -> None:
    assert "0123456789ab…" in page.text
    assert "sha256 " + "0123456789abcdef" * 4 in page.all("title")
    assert "underdrawing reproduce --out 'a b'" in page.text
    assert "/some/where" not in page.text
    assert '"torch":' in page.text
    assert '"photos": "<photos>"' in page.text


def test_chapters_are_listed_and_have_files_of_their_own(make_result: Make, tmp_path: Path) -> None:
    """A result without rows has no figures."""
    empty = replace(make_result(title="Other"), curves={}, differences=[], gap=None, sections=[])
    page = write(tmp_path / "x.html", make_result(), empty)
    assert {"#chapter-1", "#chapter-2"} <= set(page.all("href"))
    assert {"chapter-1", "chapter-2"} <= set(page.all("id"))
    assert page.tags.count("svg") == 2
    names = {path.name for path in (tmp_path / "paper").iterdir()}
    assert {"loss-row-table.tex", "other-table.tex"} <= names
    figures = {"loss-row-curves.pdf", "loss-row-differences.pdf"}
    assert {name for name in names if name.endswith(".pdf")} == figures


def test_paper_folder_says_how_to_make_it_again(folder: Path) -> None:
    readme = (folder / "paper" / "README.md").read_text("utf-8")
    record = json.loads((folder / "paper" / "record.json").read_text("utf-8"))
    (command,) = re.findall(r"```sh\n(.*)\n```", readme)
    assert shlex.split(command) == shlex.split(record["command"]) == COMMAND
    assert record["sha256"] == SHA256
    assert f"| photos | `{SHA256['photos']}` |\n| initial model | – |" in readme
    assert f"torch {record['versions']['packages']['torch']}, " in readme
    assert record["config"] == {"preset": "quick", "photos": "<photos>"}
    files = re.findall(r"\\(input|includegraphics).*{(.+)}", readme)
    suffix = {"input": ".tex", "includegraphics": ".pdf"}
    named = {name + suffix[kind] for kind, name in files}
    assert named == {"table.tex", "curves.pdf", "differences.pdf"}
    assert named <= {path.name for path in (folder / "paper").iterdir()}


def test_tables_for_a_paper_are_balanced_and_plain(folder: Path) -> None:
    tex = (folder / "paper" / "table.tex").read_text("utf-8")
    begun = re.findall(r"\\begin{(\w+)}", tex)
    assert begun == ["table", "tabular"] * 4  # full strength, matched style, differences, maps
    assert Counter(begun) == Counter(re.findall(r"\\end{(\w+)}", tex))
    code = "".join(line for line in tex.splitlines() if not line.startswith("%"))
    assert code.count("{") == code.count("}")
    assert r"new\ensuremath{<}/b\ensuremath{>} \$a\$" in code
    assert "below minimum" in code
    assert code.replace("…", "").replace("–", "").isascii()  # both known to LaTeX
