"""``underdrawing reproduce``: every row of the paper's table, trained, scored and shown.

All rows of a seed start from one shared warm-up and differ from there on. Whatever is finished is
kept, so the same command continues where it was interrupted; several at once share the work.

Several GPUs: ``accelerate launch -m underdrawing.experiments.reproduce …``; every row is trained by
all of them, and the pairs to score are shared out.
"""

import sys
from dataclasses import replace

import tyro

from ..trainers.runtime import join_processes
from .analysis.attention import maps_section
from .analysis.results import StudyResult, make_study_result, result_text, write_result
from .analysis.tables import FOOTNOTE, ROWS, make_columns
from .main import choice, run_command
from .presets import PRESETS, StudyConfig
from .recipes import RECIPES
from .report.report import Chapter, write_report
from .report.samples import cell_pictures
from .study.runs import StudyRun
from .study.scores import (
    control_scores,
    curves_of,
    make_scorer,
    study_cards,
    study_notes,
    train_and_score,
)

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


def reproduce(study: StudyConfig) -> StudyResult:
    """Train what is not trained yet, score what is not scored yet; every process returns what was
    found, the first one writes it and the report.

    Raises:
        ValueError: a mistake in the options or folders, no weights to be had, or a row that could
            not be trained.
    """
    titles = {row.recipe: row.title for row in ROWS}
    rows = {row.title: [StudyRun(row.title, RECIPES[row.recipe](), s) for s in range(study.seeds)]
            for row in ROWS}  # fmt: skip
    cells = [cells[seed] for seed in range(study.seeds) for cells in rows.values()]
    scorer = make_scorer(study, cells[0])
    controls = control_scores(scorer)
    failures = train_and_score(scorer, cells)
    if failures:
        cell, why = next(iter(failures.items()))
        raise ValueError(f"{cell.title}, seed {cell.seed}: {why}")
    curves = {title: curves_of(scorer, row, controls["identity"]) for title, row in rows.items()}
    result = make_study_result(
        TITLE, curves, controls, make_columns(scorer.networks), study_cards(scorer),
        compare=[(row.title, titles[other]) for row in ROWS for other in row.against],
        papers={row.title: row.paper for row in ROWS}, at=study.matched_gap,
        notes=[*study_notes(scorer), FOOTNOTE, ENDPOINT],
    )  # fmt: skip
    result = replace(result, more=maps_section(study, rows))
    if scorer.main:
        write_result(result, study.out, study.json)
        pictures = cell_pictures(scorer, {title: cells[0] for title, cells in rows.items()})
        chapter = Chapter(result, pictures)
        write_report(study.out / "report.html", TITLE, LEDE, [chapter], study)
    return result


def parse(arguments: list[str]) -> StudyConfig:
    """A full study from ``--preset NAME`` and options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, StudyConfig.preset)
    description = (
        "Train and score every row of the paper's table and the control rows; write the report."
        f"\n\nPreset {preset.__name__}: {preset.__doc__}"
    )
    return tyro.cli(
        StudyConfig, prog="underdrawing reproduce", description=description,
        args=arguments, default=preset(),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    study = parse(arguments)
    result = reproduce(study)
    if join_processes(study.device).is_main_process:
        print(f"\n{result_text(result)}\n")
        print(f"tables: {study.out / 'table.md'} (.tex, .csv, .json)")
        print(f"report: {study.out / 'report.html'}")


if __name__ == "__main__":
    run_command("reproduce", sys.argv[1:])
