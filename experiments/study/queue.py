"""Trains and scores the runs of a study; any number of processes may share one ``OUT``."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from ...data.files import BusyError, locked
from ...trainers.runtime import join_processes
from ...trainers.trainer import train
from ..errors import explain_error
from ..presets import StudyConfig
from .runs import StudyRun
from .scores import RunScores, StudyScorer

POLL_SECONDS = 2.0  # while other processes hold all remaining runs


def run_pending(
    scorer: StudyScorer, runs: Sequence[StudyRun]
) -> tuple[dict[str, RunScores], dict[str, str]]:
    """Train and score the runs that are not yet; those locked by another process come last.

    Returns:
        By key, the scores of all runs that have not failed, and a sentence for each that has.
    """
    # If one process of a launch failed and went on, the others would wait for it forever.
    is_launch = join_processes(scorer.study.device).num_processes > 1
    scores, failures, pending = dict[str, RunScores](), dict[str, str](), list(runs)
    while pending:
        for run in pending:
            try:
                with run_lock(scorer.study, run.key):
                    progress = f"[{len(runs) - len(pending) + 1}/{len(runs)}]"
                    cached = scorer.cached(run.key)
                    scores[run.key] = cached or train_and_score(scorer, run, progress)
            except BusyError:
                if is_launch:
                    raise
                continue
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                reason = explain_error(error, "reproduce")
                if reason is None or is_launch:
                    raise
                failures[run.key] = f"{run.title}, seed {run.seed}, failed: {reason}"
            pending.remove(run)
            break
        else:
            time.sleep(POLL_SECONDS)
    return scores, failures


def train_and_score(scorer: StudyScorer, run: StudyRun, progress: str) -> RunScores:
    """Train a run, and the warm-up it continues from, as far as needed, and score it.

    Raises:
        BusyError: another process trains the warm-up.
    """
    with run_lock(scorer.study, run.start.out.name):
        if scorer.is_main:
            print(f"{progress} seed {run.seed}: {run.title}", file=sys.stderr, flush=True)
        train(run.start)
    train(run.config)
    return scorer.score_run(run)


def run_lock(study: StudyConfig, key: str) -> AbstractContextManager[None]:
    """Lock a run; the processes of one launch work on the same run and need no lock.

    Raises:
        BusyError: another process holds the lock.
    """
    if join_processes(study.device).num_processes > 1:
        return nullcontext()
    return locked(study.out / "locks" / key)
