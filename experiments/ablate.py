"""``underdrawing ablate AXIS…``: one thing varied at a time, or several in a grid.

All cells of all axes are one queue: what two axes share (the baseline, the warm-ups) is trained
once, whatever is finished is kept, and several of the same command share the work. A cell that
fails leaves the others alone.

Several GPUs: ``accelerate launch -m underdrawing.experiments.ablate …``, or the same command once
for each GPU.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from ..data.files import write_atomic
from ..metrics.scores import Scores
from ..trainers.runtime import join_processes
from .ablations import ABLATIONS, Variants, check_axes, variants
from .analysis.attention import maps_section
from .analysis.curves import Curve
from .analysis.results import StudyResult, make_study_result, result_json, result_text, write_result
from .analysis.tables import make_columns
from .main import choice, run_command
from .presets import PRESETS, StudyConfig
from .report.report import Chapter, write_report
from .report.samples import cell_pictures
from .strength_check import check_strengths, matches, write_check
from .study.plan import StudyPlan, list_cells, make_study_plan, runs_left, seconds_per_step, summary
from .study.runs import StudyRun, cell_key
from .study.scores import (
    StudyScorer,
    control_scores,
    curves_of,
    make_scorer,
    study_cards,
    study_notes,
    train_and_score,
)

TITLE = "Ablations"
LEDE = (
    "One thing varied at a time: every row was trained and scored like the baseline of its table, "
    "but for what the row is called after."
)


@dataclass(frozen=True)
class AblateConfig:
    """The options: those of the study, and what is varied."""

    axes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to vary: one or more of the axes above."""
    grid: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All combinations of the axes in one table, not a table for each."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the cells and how long they would take. Nothing is trained."""
    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)


class AblationTable(NamedTuple):
    """A table to be."""

    axes: tuple[str, ...]
    variants: Variants
    rows: dict[str, list[StudyRun]]  # by title, a cell a seed

    @property
    def name(self) -> str:
        """Of its folder."""
        return "+".join(self.axes)


def ablations(config: AblateConfig) -> list[AblationTable]:
    """The tables that are asked for.

    Raises:
        ValueError: no such axis, or axes that make no grid.
    """
    check_axes(config.axes)
    axes = tuple(dict.fromkeys(config.axes))
    tables = []
    for chosen in [axes] if config.grid else [(axis,) for axis in axes]:
        values, name = variants(chosen), "+".join(chosen)
        rows = {
            title: [StudyRun(f"{name}: {title}", recipe, s) for s in range(config.study.seeds)]
            for title, recipe in values.recipes.items()
        }
        tables.append(AblationTable(chosen, values, rows))
    return tables


def distinct(study: StudyConfig, tables: Sequence[AblationTable]) -> dict[str, StudyRun]:
    """All cells by their keys, one seed after the other; what tables share comes once."""
    cells: dict[str, StudyRun] = {}
    for seed in range(study.seeds):
        for row in (row for table in tables for row in table.rows.values()):
            cells.setdefault(cell_key(study, row[seed]), row[seed])
    return cells


def ablate(config: AblateConfig) -> tuple[list[StudyResult], dict[StudyRun, str]]:
    """Train and score what is not yet, and write tables and report; or say what would be done.

    Returns:
        What was found, by table; and why cells failed, in a sentence each.

    Raises:
        ValueError: a mistake in the options or folders, no weights for the judges, or a baseline
            that cannot be trained at all.
    """
    study, tables = config.study, ablations(config)
    if ("strength",) in [table.axes for table in tables]:
        check_strengths(study)
    cells = distinct(study, tables)
    scorer = make_scorer(study, next(iter(cells.values())))
    agenda = make_study_plan(scorer, cells)
    announce(config, scorer, agenda, [table.rows[table.variants.baseline][0] for table in tables])
    if config.dry_run:
        return [], {}
    controls = control_scores(scorer)
    failures = train_and_score(scorer, list(agenda.open.values()))
    reasons = {cell_key(study, cell): f"failed: {why}" for cell, why in failures.items()}
    reasons |= agenda.skipped
    found = [table_findings(scorer, table, controls, reasons) for table in tables]
    if scorer.main:
        write_tables(scorer, tables, found)
    return found, failures


def announce(
    config: AblateConfig, scorer: StudyScorer, agenda: StudyPlan, baselines: Sequence[StudyRun]
) -> None:
    """Say what will be done and how long it takes; a dry run lists every cell."""
    runs, _ = runs_left(agenda)
    # The dearest one, with a discriminator: the estimate is rather too long than too short.
    dearest = max(baselines, key=lambda cell: cell.recipe.balance.adversarial)
    step = seconds_per_step(config.study, dearest) if runs else None
    if not scorer.main:
        return
    if config.dry_run:
        print(list_cells(agenda))
    print(summary(agenda, step), file=sys.stdout if config.dry_run else sys.stderr, flush=True)


def table_findings(
    scorer: StudyScorer,
    table: AblationTable,
    controls: Mapping[str, Scores],
    reasons: Mapping[str, str],
) -> StudyResult:
    """A table's findings; a row with a cell that has a reason is left out, for that reason."""
    why, rows, baseline = dict[str, str](), dict[str, list[Curve]](), table.variants.baseline
    for title, cells in table.rows.items():
        stopped = [reasons.get(cell_key(scorer.study, cell)) for cell in cells]
        if reason := next(filter(None, stopped), None):
            why[title] = reason
        else:
            rows[title] = curves_of(scorer, cells, controls["identity"])
    columns = [column._replace(paper=None) for column in make_columns(scorer.networks)]
    asks = [f"{axis}: {ABLATIONS[axis].asks}" for axis in table.axes]
    result = make_study_result(
        " × ".join(table.axes), rows, controls, columns, study_cards(scorer),
        compare=[(title, baseline) for title in rows if title != baseline],
        at=scorer.study.matched_gap, notes=[*asks, *study_notes(scorer)],
        skipped=why | {title: f"no such row: {x}" for title, x in table.variants.refused.items()},
    )  # fmt: skip
    shown = {title: cells for title, cells in table.rows.items() if title in rows}
    return replace(result, more=maps_section(scorer.study, shown))


def write_tables(
    scorer: StudyScorer, tables: Sequence[AblationTable], found: Sequence[StudyResult]
) -> None:
    """Every table into its folder, all of them into the report."""
    study, chapters = scorer.study, []
    for table, result in zip(tables, found, strict=True):
        write_result(result, study.out / table.name)
        if table.axes == ("strength",):
            write_check(matches(result.curves), study.out / table.name)
        shown = {title: table.rows[title][0] for title in result.curves}
        chapters.append(Chapter(result, cell_pictures(scorer, shown)))
    if study.json:
        everything = {
            t.name: json.loads(result_json(f)) for t, f in zip(tables, found, strict=True)
        }
        write_atomic(study.json, json.dumps(everything, indent=1))
    write_report(study.out / "report.html", TITLE, LEDE, chapters, study)


def parse(arguments: list[str]) -> AblateConfig:
    """Axes, ``--preset NAME`` and options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, StudyConfig.preset)
    study = preset()
    study = replace(study, out=Path(str(study.out).replace("reproduce", "ablate")))
    axes = "\n".join(f"  {name}: {axis.asks}" for name, axis in ABLATIONS.items())
    description = (
        "Vary one thing at a time: train and score each value of every axis, compare it with the "
        f"baseline's, and write tables and a report.\n\nAxes:\n{axes}\n\n"
        f"Preset {preset.__name__}: {(preset.__doc__ or '').splitlines()[0]}"
    )
    return tyro.cli(
        AblateConfig, prog="underdrawing ablate", description=description,
        args=arguments, default=AblateConfig(study=study),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command; exit code 1 if a cell failed."""
    config = parse(arguments)
    found, failures = ablate(config)
    if found and join_processes(config.study.device).is_main_process:
        for result in found:
            print(f"\n{result.title}\n\n{result_text(result)}\n")
        print(f"tables: {config.study.out}/AXIS/table.md (.tex, .csv, .json)")
        print(f"report: {config.study.out / 'report.html'}")
        for cell, why in failures.items():
            print(f"underdrawing: {cell.title}, seed {cell.seed}, failed: {why}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run_command("ablate", sys.argv[1:])
