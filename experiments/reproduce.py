"""``underdrawing reproduce``: every row of the paper's table, trained, scored and shown.

All rows of a seed start from one shared warm-up and differ from there on. Whatever is finished is
kept, so the same command continues where it was interrupted; several at once share the work.

Several GPUs: ``accelerate launch -m underdrawing.experiments.reproduce …``; every row is trained by
all of them, and the pairs to score are shared out.
"""

import sys
from dataclasses import replace

import tyro

from ..trainers.processes import join_processes
from .bench import (
    control_scores,
    curves_of,
    make_bench,
    study_cards,
    study_notes,
    train_and_score,
)
from .cells import Cell
from .findings import Findings, findings_text, make_findings, write_findings
from .gallery import cell_pictures
from .main import choice, run_command
from .maps import maps_section
from .presets import PRESETS, Study
from .recipes import RECIPES
from .report import Chapter, write_report
from .table import FOOTNOTE, ROWS, make_columns

TITLE = "The paper’s table, measured again"
LEDE = (
    "Style transfer with different content losses: every row of the paper’s table was trained "
    "anew and scored on held-out pairs of a photo and a painting, next to controls that do "
    "nothing clever."
)
ENDPOINT = (
    "Primary endpoint, fixed beforehand: SSIM worst tenth and LPIPS at matched style, of “+ "
    "attention” less “content, multi-layer”. All other comparisons are secondary."
)


def reproduce(study: Study) -> Findings:
    """Train what is not trained yet, score what is not scored yet; every process returns what was
    found, the first one writes it and the report.

    Raises:
        ValueError: a mistake in the options or folders, no weights to be had, or a row that could
            not be trained.
    """
    titles = {row.recipe: row.title for row in ROWS}
    rows = {row.title: [Cell(row.title, RECIPES[row.recipe](), s) for s in range(study.seeds)]
            for row in ROWS}  # fmt: skip
    cells = [cells[seed] for seed in range(study.seeds) for cells in rows.values()]
    bench = make_bench(study, cells[0])
    controls = control_scores(bench)
    failures = train_and_score(bench, cells)
    if failures:
        cell, why = next(iter(failures.items()))
        raise ValueError(f"{cell.title}, seed {cell.seed}: {why}")
    curves = {title: curves_of(bench, row, controls["identity"]) for title, row in rows.items()}
    findings = make_findings(
        TITLE, curves, controls, make_columns(bench.judges), study_cards(bench),
        compare=[(row.title, titles[other]) for row in ROWS for other in row.against],
        papers={row.title: row.paper for row in ROWS}, at=study.matched_gap,
        notes=[*study_notes(bench), FOOTNOTE, ENDPOINT],
    )  # fmt: skip
    findings = replace(findings, more=maps_section(study, rows))
    if bench.main:
        write_findings(findings, study.out, study.json)
        pictures = cell_pictures(bench, {title: cells[0] for title, cells in rows.items()})
        chapter = Chapter(findings, pictures)
        write_report(study.out / "report.html", TITLE, LEDE, [chapter], study)
    return findings


def parse(arguments: list[str]) -> Study:
    """A full study from ``--preset NAME`` and options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, Study.preset)
    description = (
        "Train and score every row of the paper's table and the control rows; write the report."
        f"\n\nPreset {preset.__name__}: {preset.__doc__}"
    )
    return tyro.cli(
        Study, prog="underdrawing reproduce", description=description,
        args=arguments, default=preset(),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    study = parse(arguments)
    findings = reproduce(study)
    if join_processes(study.device).is_main_process:
        print(f"\n{findings_text(findings)}\n")
        print(f"tables: {study.out / 'table.md'} (.tex, .csv, .json)")
        print(f"report: {study.out / 'report.html'}")


if __name__ == "__main__":
    run_command("reproduce", sys.argv[1:])
