"""The report of a study: one self-contained HTML page, and a folder of files for a paper."""

import base64
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from torch import Tensor

from ...data.files import one_line, write_atomic
from ...data.images import encode_image, to_image
from ...trainers.runtime import join_processes
from ...trainers.tracking import provenance
from ...trainers.visualize import overlay
from ..analysis.results import (
    DIFFERENCES,
    FULL,
    MATCHED,
    StudyResult,
    difference_rows,
    differences_note,
    result_latex,
    result_text,
    write_result,
)
from ..presets import StudyConfig, command_line
from ..study.runs import StudyRun
from ..study.scores import StudyScorer
from .figures import WIDTH, curves_figure, differences_figure, inline, render
from .samples import Sample, study_samples


class Chapter(NamedTuple):
    """A table of a study with its samples."""

    result: StudyResult
    samples: Sequence[Sample]


class StudyTable(NamedTuple):
    """A finished table of a study."""

    folder: Path
    result: StudyResult
    rows: Mapping[str, Sequence[StudyRun]]  # by title, one run per seed


def write_study(
    scorer: StudyScorer, title: str, lede: str, words: Sequence[str], tables: Sequence[StudyTable]
) -> None:
    """Write each table into its folder and all of them into the report; ``words`` and the options
    of the study are the command that makes it.
    """
    study, chapters, runs = scorer.study, [], []
    for folder, result, rows in tables:
        write_result(result, folder)
        first = {row: rows[row][0] for row in result.curves}
        chapters.append(Chapter(result, study_samples(first, scorer.manifest, scorer.device)))
        runs += [run for seeds in rows.values() for run in seeds]
    write_report(
        study.out / "report.html", title, lede, chapters, study, command_line(study, *words),
        scorer.sha256(runs),
    )  # fmt: skip


def end_study(
    study: StudyConfig, results: Sequence[StudyResult], failures: Mapping[str, str], tables: Path
) -> None:
    """Print the results and where they are; exit with code 1 if a run failed."""
    if results and join_processes(study.device).is_main_process:
        for result in results:
            print(f"\n{result.title}\n\n{result_text(result)}\n")
        print(one_line(f"tables: {tables / 'table.md'} (.csv, .json)"))
        print(one_line(f"report: {study.out / 'report.html'}"))
        print(one_line(f"for a paper: {study.out / 'paper'}"))
    if failures:
        sys.exit("\n".join(f"underdrawing: {why}" for why in failures.values()))


def write_report(
    path: Path, title: str, lede: str, chapters: Sequence[Chapter], config: Any,
    command: Sequence[str], sha256: Mapping[str, str | None],
) -> None:  # fmt: skip
    """Write the page to ``path``, and to the folder ``paper`` beside it: LaTeX tables, figures, a
    record of all settings, versions and inputs (by their hashes), and a README with the command
    that makes them again.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "data_uri": data_uri,
        "overlay": lambda a, photo: overlay(photo[None], a[None])[0],
    }
    environment.globals |= {"FULL": FULL, "MATCHED": MATCHED, "DIFFERENCES": DIFFERENCES}
    environment.globals |= {"difference_rows": difference_rows, "note": differences_note}
    folder = path.parent / "paper"
    names = (re.sub(r"\W+", "-", chapter.result.title.lower()).strip("-") for chapter in chapters)
    prefixes = (f"{name}-" if len(chapters) > 1 else "" for name in names)  # of names of files
    results = {prefix: c.result for prefix, c in zip(prefixes, chapters, strict=True)}
    record = {
        "command": shlex.join(command), "versions": provenance(), "config": asdict(config),
        "sha256": sha256,
    }  # fmt: skip
    settings = json.dumps(record, indent=2, default=str, ensure_ascii=False)
    context = record | {
        "title": title, "lede": lede, "chapters": chapters, "settings": settings,
        "figures": [draw_figures(result, folder, prefix) for prefix, result in results.items()],
        "cards": dict.fromkeys(card for c in chapters for card in c.result.full.cards),
        "prefixes": results, "width": WIDTH,
    }  # fmt: skip
    for prefix, result in results.items():
        write_atomic(folder / f"{prefix}table.tex", result_latex(result))
    write_atomic(folder / "record.json", settings)
    write_atomic(folder / "README.md", environment.get_template("readme.md.j2").render(context))
    write_atomic(path, environment.get_template("template.html.j2").render(context))


def draw_figures(result: StudyResult, folder: Path, prefix: str) -> dict[str, dict[str, str]]:
    """Write a result's figures as files, and return their names and SVG elements for the page."""
    drawn = {}
    for name, draw, data in (
        ("curves", curves_figure, result.curves),
        ("differences", differences_figure, result.differences),
    ):
        if data:
            file, figure = prefix + name, draw(result)
            svg = render(figure, "svg", file)
            write_atomic(folder / f"{file}.svg", svg)
            write_atomic(folder / f"{file}.pdf", render(figure, "pdf", file))
            drawn[name] = {"file": file, "svg": inline(svg)}
    return drawn


def number(value: float, digits: int, sign: str = "-") -> str:
    """Format a number with a true minus sign; with ``sign="+"`` also a plus."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def data_uri(image: Tensor) -> str:
    """Return an image (3,H,W) in [0,1] as a data URI of a JPEG file."""
    jpeg = encode_image(to_image(image), ".jpg")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
