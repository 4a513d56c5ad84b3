"""``underdrawing ablate ABLATION…``: vary one thing at a time, or several in a grid.

All runs of all ablations are one queue: shared runs (the baseline, the warm-ups) are trained once,
finished runs are reused, and several processes of the same command share the work.

Several GPUs: ``accelerate launch -m underdrawing.experiments.ablate …``, or the same command once
per GPU.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from ..metrics.scores import Scores
from .ablations import ABLATIONS, Variants, variants
from .analysis.attention import attention_section
from .analysis.results import StudyResult, make_study_result
from .main import choice, parse_options, run_command
from .presets import PRESETS, StudyConfig
from .report.report import StudyTable, end_study, write_study
from .study.plan import make_study_plan, time_step
from .study.queue import run_pending
from .study.runs import StudyRun, make_run
from .study.scores import RunScores, StudyScorer, make_curves, make_scorer

TITLE = "Ablations"
LEDE = "Each row differs from the baseline of its table only in the named setting."


@dataclass(frozen=True)
class AblateConfig:
    """Options of the command: those of the study, and what to vary."""

    ablations: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ABLATION ...")
    ] = ()
    """One or more of the ablations above."""
    grid: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All combinations of the ablations in one table instead of a table each."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the runs and estimate their time, without training."""
    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)


class AblationTable(NamedTuple):
    """An ablation, or a grid of several, with its runs."""

    name: str
    questions: list[str]
    variants: Variants
    study: StudyConfig  # with the start of these runs
    rows: dict[str, list[StudyRun]]  # by title, one per seed


def chosen_ablations(config: AblateConfig) -> list[list[str]]:
    """Return the names of the ablations in each table, each ablation once."""
    names = list(dict.fromkeys(config.ablations))
    return [[name] for name in names] if names and not config.grid else [names]


def make_tables(config: AblateConfig, data: Sequence[str]) -> list[AblationTable]:
    """Return the tables to compute, on images with these content hashes; raises what ``variants``
    raises.
    """
    tables = []
    for chosen in chosen_ablations(config):
        title, found, study = "+".join(chosen), variants(chosen), config.study
        study = replace(study, init=None) if found.from_nothing else study
        rows = {
            value: [make_run(study, f"{title}: {value}", recipe, seed, data)
                    for seed in range(study.seeds)]
            for value, recipe in found.recipes.items()
        }  # fmt: skip
        questions = [f"{name}: {ABLATIONS[name].question}" for name in chosen]
        tables.append(AblationTable(title, questions, found, study, rows))
    return tables


def distinct_runs(tables: Sequence[AblationTable]) -> dict[str, StudyRun]:
    """Return the runs of all tables by key, seed by seed."""
    rows = [row for table in tables for row in table.rows.values()]
    runs = dict[str, StudyRun]()
    for run in (run for seed in zip(*rows, strict=True) for run in seed):
        runs.setdefault(run.key, run)
    return runs


def ablate(config: AblateConfig) -> tuple[list[StudyResult], dict[str, str]]:
    """Train and score what is not yet, and write tables and report; or only list the runs.

    Returns:
        The result of each table; and why runs failed, by key.

    Raises:
        ValueError: unusable options or folders, no weights for a metric network, or a baseline
            that cannot be trained at all.
    """
    for names in chosen_ablations(config):
        variants(names)  # refuses unknown names and grids before images are read
    scorer = make_scorer(config.study)
    tables = make_tables(config, scorer.data)
    runs = distinct_runs(tables)
    plan, seconds = make_study_plan(scorer, runs), None
    if plan.to_train:
        # The slowest baseline is the one with a discriminator.
        baselines = [table.rows[table.variants.baseline][0] for table in tables]
        seconds = time_step(max(baselines, key=lambda r: r.config.balance.adversarial))
    if scorer.is_main:
        stream = sys.stdout if config.dry_run else sys.stderr
        for key, run in runs.items() if config.dry_run else ():
            print(f"{key}  {plan.states[key]:<20} seed {run.seed}  {run.title}", file=stream)
        print(plan.summary(seconds), file=stream, flush=True)
    if config.dry_run:
        return [], {}
    controls = scorer.score_controls()
    scores, failures = run_pending(scorer, [r for k, r in runs.items() if k not in plan.skipped])
    reasons = {**plan.skipped, **failures}
    results = [table_result(scorer, table, scores, reasons, controls) for table in tables]
    if scorer.is_main:
        words = ["ablate", *config.ablations, *["--grid"] * config.grid]
        finished = [
            StudyTable(config.study.out / table.name, result, table.rows)
            for table, result in zip(tables, results, strict=True)
        ]
        write_study(scorer, TITLE, LEDE, words, finished)
    return results, failures


def table_result(
    scorer: StudyScorer, table: AblationTable, scores: Mapping[str, RunScores],
    reasons: Mapping[str, str], controls: Mapping[str, Scores],
) -> StudyResult:  # fmt: skip
    """Return the result of a table; rows with a run that has a reason are left out."""
    baseline, control = table.variants.baseline, table.variants.control
    curves, skipped = make_curves(table.rows, scores, reasons, controls["identity"])
    return make_study_result(
        table.name, curves, controls,
        [column._replace(paper=None) for column in scorer.columns()],
        scorer.cards(controls),
        compare=[(row, baseline) for row in curves if row != baseline]
        + [(row, control) for row in curves if control and row not in (baseline, control)],
        gap=scorer.study.matched_gap, notes=[*table.questions, *scorer.notes(table.study)],
        skipped=skipped | {row: f"refused: {why}" for row, why in table.variants.refused.items()},
        sections=attention_section({row: [run.dir for run in table.rows[row]] for row in curves}),
    )  # fmt: skip


def parse(arguments: list[str]) -> AblateConfig:
    """Return ablations and study from ``--preset NAME`` and options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, StudyConfig.preset)
    study = preset()
    study = replace(study, out=Path(str(study.out).replace("reproduce", "ablate")))
    listed = "\n".join(f"  {name}: {ablation.question}" for name, ablation in ABLATIONS.items())
    description = (
        "Vary one thing at a time: train and evaluate each value of every ablation, compare it "
        f"with the baseline, and write tables and a report.\n\nAblations:\n{listed}\n\n"
        f"Preset {preset.__name__}: {(preset.__doc__ or '').splitlines()[0]}"
    )
    return parse_options(
        AblateConfig, prog="underdrawing ablate", description=description,
        args=arguments, default=AblateConfig(study=study),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command; exit code 1 if a run failed."""
    config = parse(arguments)
    results, failures = ablate(config)
    end_study(config.study, results, failures, config.study.out / "ABLATION")


if __name__ == "__main__":
    run_command("ablate", sys.argv[1:])
