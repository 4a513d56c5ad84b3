"""``underdrawing reproduce``: train and evaluate every row of the paper's table.

All rows of a seed continue from one shared warm-up. Finished runs are reused: the same command
continues where it was interrupted, and several processes of it share the work.

Several GPUs: ``accelerate launch -m underdrawing.experiments.reproduce …`` trains each row on all.
"""

import sys

from .analysis.attention import attention_section
from .analysis.results import StudyResult, make_study_result
from .analysis.tables import FOOTNOTE, ROWS
from .main import choice, parse_options, run_command
from .presets import PRESETS, StudyConfig
from .recipes import RECIPES
from .report.report import StudyTable, end_study, write_study
from .study.queue import run_pending
from .study.runs import make_run
from .study.scores import make_curves, make_scorer

TITLE = "The paper’s table, reproduced"
LEDE = (
    "Style transfer with different content losses: every row of the paper’s table, trained anew "
    "and evaluated on held-out pairs of a photo and a painting, with trivial control methods."
)
ENDPOINT = (
    "Primary endpoint, fixed in advance: SSIM worst tenth and LPIPS at matched style, “+ "
    "attention” − “content, multi-layer”. All other comparisons are secondary."
)


def reproduce(study: StudyConfig) -> tuple[StudyResult, dict[str, str]]:
    """Train and score what is not yet; the main process writes tables and report.

    Returns:
        The result of all rows without a failed run; and why runs failed, by key.

    Raises:
        ValueError: unusable options or folders, or no weights for a metric network.
    """
    scorer = make_scorer(study)
    rows = {
        row.title: [
            make_run(study, row.title, RECIPES[row.recipe](), seed, scorer.data)
            for seed in range(study.seeds)
        ]
        for row in ROWS
    }
    controls = scorer.score_controls()
    by_seed = [runs[seed] for seed in range(study.seeds) for runs in rows.values()]
    scores, failures = run_pending(scorer, by_seed)
    curves, skipped = make_curves(rows, scores, failures, controls["identity"])
    titles = {row.recipe: row.title for row in ROWS}
    result = make_study_result(
        TITLE, curves, controls, scorer.columns(), scorer.cards(controls),
        compare=[(row.title, titles[row.baseline]) for row in ROWS if row.baseline],
        papers={row.title: row.paper for row in ROWS}, gap=study.matched_gap, skipped=skipped,
        notes=[*scorer.notes(study), FOOTNOTE, ENDPOINT],
        sections=attention_section({title: [run.dir for run in rows[title]] for title in curves}),
    )  # fmt: skip
    if scorer.is_main:
        write_study(scorer, TITLE, LEDE, ["reproduce"], [StudyTable(study.out, result, rows)])
    return result, failures


def parse(arguments: list[str]) -> StudyConfig:
    """Return the study of ``--preset NAME`` with the options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, StudyConfig.preset)
    description = (
        "Train and evaluate every row of the paper's table and the control rows; write the report."
        f"\n\nPreset {preset.__name__}: {preset.__doc__}"
    )
    return parse_options(
        StudyConfig, prog="underdrawing reproduce", description=description,
        args=arguments, default=preset(),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command; exit code 1 if a run failed."""
    study = parse(arguments)
    result, failures = reproduce(study)
    end_study(study, [result], failures, study.out)


if __name__ == "__main__":
    run_command("reproduce", sys.argv[1:])
