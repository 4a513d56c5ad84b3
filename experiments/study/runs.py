"""Cells: the trained runs that tables are made of, each told by its configuration alone.

A cell lies in ``OUT/cells/KEY``, its scores in ``OUT/scores/SPLIT/KEY.json``; the key is a hash of
the settings. So whatever is finished is kept, cells that two tables share are trained once, and any
number of processes may work on one ``OUT``: each takes a cell that no other has in hand.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...data.files import BusyError, locked
from ...trainers.config import (
    AdversarialConfig,
    AttentionConfig,
    TrainConfig,
    identity_settings,
)
from ...trainers.runtime import join_processes, pick_device, pick_precision
from ...trainers.trainer import train
from ..errors import explain_error
from ..presets import StudyConfig
from ..recipes import attention

TRAINING = 1  # raise it when the code changes what a configuration trains: old cells are not met
LOOK_AGAIN = 2.0  # seconds, while others are at work on what is left


class StudyRun(NamedTuple):
    """One row of a table at one seed."""

    title: str
    recipe: TrainConfig  # what makes it this row; pictures, sizes and steps are the study's
    seed: int


def cell_config(study: StudyConfig, cell: StudyRun) -> TrainConfig:
    """The run of a cell. It starts from a warm-up that all cells of a seed share."""
    start = warmup_config(study, cell)
    config = drop_inactive_settings(_sized(study, cell.recipe))
    config = replace(
        config, init=start.out, steps=study.steps, seed=1000 + cell.seed,  # it sees new crops
        optimizer=replace(config.optimizer, warmup=5),  # the generator is trained already
    )  # fmt: skip
    return replace(config, out=study.out / "cells" / key_of(config))


def warmup_config(study: StudyConfig, cell: StudyRun) -> TrainConfig:
    """The start of a cell: multi-layer content in which attention is learned but not used, no D. Of
    the cell it has only what a generator cannot take over later (the encoder with its layers, its
    own base), gradient shares, which only mean the same for all encoders if all have them, and the
    strengths.
    """
    recipe, start = cell.recipe, attention()
    foreign = recipe.encoder != start.encoder
    start = replace(
        start, attention=AttentionConfig(objective="observed", target="structural"),
        encoder=recipe.encoder, generator=recipe.generator,
        style=replace(start.style, layers=recipe.style.layers),
        full_strength_prob=recipe.full_strength_prob,
    )  # fmt: skip
    if foreign:
        start = replace(start, content=recipe.content)
    if foreign or recipe.balance.kind == "gradient":
        start = replace(start, balance=replace(recipe.balance, adversarial=0.0))
    config = replace(_sized(study, start), steps=study.warmup, seed=cell.seed)
    return replace(config, out=study.out / "cells" / key_of(config))


def _sized(study: StudyConfig, recipe: TrainConfig) -> TrainConfig:
    """A recipe with the study's data and sizes."""
    alone = recipe.full_strength_prob == 1  # it is trained at one strength, whatever the others are
    precision = pick_precision(study.precision, pick_device(study.device))
    return replace(
        recipe, photos=study.photos, paintings=study.paintings, device=study.device,
        precision=precision, batch_size=study.batch_size, size=study.size,
        full_strength_prob=1.0 if alone else study.full_strength_prob, workers=study.workers,
        encoder=replace(recipe.encoder, weights_dir=study.weights_dir),
        generator=study.generator,
        optimizer=replace(recipe.optimizer, lr=study.lr),
        validate_every=max(study.steps, study.warmup),  # the last model counts, not the best
    )  # fmt: skip


def drop_inactive_settings(config: TrainConfig) -> TrainConfig:
    """The run with settings that its others leave no part to play at their defaults, so that a grid
    trains no cell twice under two names.
    """
    a, idle = config.attention, AttentionConfig()
    if a.objective in ("uniform", "joint", "gate"):
        a = replace(a, target=idle.target, budget=idle.budget)
    elif not a.target.startswith("robust"):
        a = replace(a, budget=idle.budget)
    d = config.adversarial if config.balance.adversarial else AdversarialConfig()
    return replace(config, attention=a, adversarial=d)


def cell_key(study: StudyConfig, cell: StudyRun) -> str:
    """What tells cells apart, whatever they are called."""
    return cell_config(study, cell).out.name


def key_of(config: TrainConfig) -> str:
    """Twelve digits that tell cells apart: of every setting that counts, default or not, with the
    start's key for its path.
    """
    start = Path(config.init.name) if config.init else None
    settings = {"training": TRAINING} | identity_settings(replace(config, init=start))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def train_cell(study: StudyConfig, cell: StudyRun) -> None:
    """Train a cell, and the start it needs, as far as they are not yet.

    Raises:
        BusyError: another process trains the start.
        ValueError: see ``trainer.train``.
    """
    start = warmup_config(study, cell)
    with run_lock(study, start.out.name):
        train(start)
    train(cell_config(study, cell))


def run_lock(study: StudyConfig, key: str) -> AbstractContextManager[None]:
    """Hold a cell; the processes of one launch work on the same cell together, and hold none.

    Raises:
        BusyError: another process has it in hand.
    """
    if join_processes(study.device).num_processes > 1:
        return nullcontext()
    return locked(study.out / "claims" / key)


def run_pending(
    study: StudyConfig, cells: Sequence[StudyRun], work: Callable[[StudyRun], None]
) -> dict[StudyRun, str]:
    """Do every cell's work, sharing it with whatever other processes are at it.

    Returns:
        Why cells failed, in a sentence each; a failure does not stop the others.

    Raises:
        RuntimeError: a bug.
    """
    failures: dict[StudyRun, str] = {}
    pending, announced = list(cells), set[StudyRun]()
    # What fails on one process of a launch leaves the others waiting: then the launch must end.
    together = join_processes(study.device).num_processes > 1
    while pending:
        for cell in pending:
            try:
                with run_lock(study, cell_key(study, cell)):
                    if cell not in announced:  # it may be put off, while its start is busy
                        _announce(study, cell, len(announced) + 1, len(cells))
                    announced.add(cell)
                    work(cell)
            except BusyError:
                if together:
                    raise
                continue
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                sentence = explain_error(error, "reproduce")
                if sentence is None or together:
                    raise
                failures[cell] = sentence
            pending.remove(cell)
            break
        else:
            time.sleep(LOOK_AGAIN)
    return failures


def _announce(study: StudyConfig, cell: StudyRun, number: int, of: int) -> None:
    if join_processes(study.device).is_main_process:
        print(f"[{number}/{of}] seed {cell.seed}: {cell.title}", file=sys.stderr, flush=True)
