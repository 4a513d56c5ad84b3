"""What is left to do of a study's cells, said before it starts: which, and how long it takes."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.data import default_collate

from ...models.pretrained import MissingWeightsError, load_pretrained
from ...trainers.checkpoint import saved_step
from ...trainers.config import TrainConfig
from ...trainers.trainer import Trainer
from ..presets import StudyConfig
from .runs import StudyRun, cell_config, warmup_config
from .scores import StudyScorer, is_scored

TIMED = 3  # steps


class StudyPlan(NamedTuple):
    """A study's cells, by their keys."""

    study: StudyConfig
    cells: Mapping[str, StudyRun]
    skipped: Mapping[str, str]  # those that cannot be trained, and why
    open: Mapping[str, StudyRun]  # those that are not scored yet


def make_study_plan(scorer: StudyScorer, cells: Mapping[str, StudyRun]) -> StudyPlan:
    """Look at what is kept, and which encoders' weights are nowhere to be had."""
    skipped = without_weights(scorer.study, cells)
    left = {
        key: cell for key, cell in cells.items()
        if key not in skipped and not is_scored(scorer, cell_config(scorer.study, cell))
    }  # fmt: skip
    return StudyPlan(scorer.study, cells, skipped, left)


def without_weights(study: StudyConfig, cells: Mapping[str, StudyRun]) -> dict[str, str]:
    """Cells whose encoder has no weights here, and why: they never run on random ones."""
    missing = dict[str, str]()
    for name in dict.fromkeys(cell.recipe.encoder.name for cell in cells.values()):
        try:
            load_pretrained(name, study.weights_dir)
        except MissingWeightsError as error:
            missing[name] = f"skipped: {error}"
        except ValueError:
            pass  # they are damaged, and its cells will say so
    names = {key: cell.recipe.encoder.name for key, cell in cells.items()}
    return {key: missing[name] for key, name in names.items() if name in missing}


def runs_left(agenda: StudyPlan) -> tuple[list[TrainConfig], list[TrainConfig]]:
    """The cells' runs that are to be trained or continued, and the warm-ups that these want."""
    runs = [
        (cell_config(agenda.study, cell), warmup_config(agenda.study, cell))
        for cell in agenda.open.values()
    ]
    runs = [(run, start) for run, start in runs if _steps(run)]
    starts = {start.out: start for _, start in runs if _steps(start)}
    return [run for run, _ in runs], list(starts.values())


def _steps(run: TrainConfig) -> int:
    return max(0, run.steps - saved_step(run.out))


def seconds_per_step(study: StudyConfig, cell: StudyRun) -> float:
    """How long a cell's step takes on this machine, at its full batch of its own pictures, which
    are read beforehand. All processes of a launch must ask together; nothing is written.

    Raises:
        ValueError: what training would raise for this cell.
    """
    config = cell_config(study, cell)
    if _steps(warmup_config(study, cell)):
        config = replace(config, init=None)  # there is none yet
    trainer = Trainer(replace(config, workers=0, cache_images=False))
    own = config.batch_size // trainer.accelerator.num_processes
    batch = default_collate([trainer.dataset[position] for position in range(own)])
    trainer.train_step.step(
        1, batch
    )  # not 0, which measures gradients; allocates, tries algorithms
    began = _now(trainer.device)
    for _ in range(TIMED):
        trainer.train_step.step(1, batch)
    return (_now(trainer.device) - began) / TIMED


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def list_cells(agenda: StudyPlan) -> str:
    """A line for each cell: key, what is left to do, seed, title."""
    lines = [
        f"{key}  {_state(agenda, key):<22} seed {cell.seed}  {cell.title}"
        for key, cell in agenda.cells.items()
    ]
    return "\n".join(lines)


def _state(agenda: StudyPlan, key: str) -> str:
    if key in agenda.skipped:
        return "skipped: no weights"
    if key not in agenda.open:
        return "kept"
    run = cell_config(agenda.study, agenda.cells[key])
    if not (left := _steps(run)):
        return "to score"
    return "to train" if left == run.steps else f"to continue at {run.steps - left}"


def summary(agenda: StudyPlan, step: float | None) -> str:
    """In a sentence: how many cells, and how long they take at so many seconds a step."""
    seeds = agenda.study.seeds
    (runs, starts), cells = runs_left(agenda), len(agenda.cells)
    kept = cells - len(agenda.open) - len(agenda.skipped)
    sentence = (
        f"{cells} cells ({cells // seeds} × {seeds} seed(s); {kept} kept, {len(agenda.skipped)} "
        f"skipped), {len(runs)} to train and {len(starts)} warm-up(s)"
    )
    if step is None:
        return sentence
    total = sum(map(_steps, [*runs, *starts])) * step
    return (
        f"{sentence}: about {duration(total)} on this machine ({step:.2g} s a step, measured by "
        f"{TIMED} steps of the baseline; scoring not counted)"
    )


def duration(seconds: float) -> str:
    """A time in words, like ``2 h 10 min``."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
