import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from underdrawing.experiments.presets import StudyConfig
from underdrawing.experiments.study import queue as module
from underdrawing.experiments.study.queue import run_pending
from underdrawing.experiments.study.runs import StudyRun
from underdrawing.trainers.config import TrainConfig

HOLD = """
import fcntl, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
file = path.open("a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX only")


class FakeScorer:
    """Scores a run with its key; ``scored`` are the keys scored so far."""

    def __init__(self, study: StudyConfig) -> None:
        self.study, self.is_main, self.scored = study, True, list[str]()

    def cached(self, key: str) -> str | None:
        return key if key in self.scored else None

    def score_run(self, run: StudyRun) -> str:
        self.scored.append(run.key)
        return run.key


@pytest.fixture
def scorer(study: StudyConfig) -> Any:
    return FakeScorer(study)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories of the runs trained from now on; nothing is trained in fact."""
    trained: list[Path] = []
    monkeypatch.setattr(module, "train", lambda config: trained.append(config.out))
    return trained


def fail_at(monkeypatch: pytest.MonkeyPatch, run: StudyRun, error: BaseException) -> None:
    def train(config: TrainConfig) -> None:
        if config == run.config:
            raise error

    monkeypatch.setattr(module, "train", train)


@contextmanager
def locked_by_another_process(study: StudyConfig, key: str) -> Iterator[Callable[[], None]]:
    """Yield a function that releases the lock."""
    path = str(study.out / "locks" / key)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield lambda: (other.communicate(), None)[1]


def test_runs_are_trained_from_their_warmup_and_scored_unless_they_are_already(
    scorer: Any, runs: list[StudyRun], trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    scorer.scored.append(runs[0].key)
    scores, failures = run_pending(scorer, runs)
    assert scores == {run.key: run.key for run in runs}
    assert failures == {}
    assert trained == [path for run in runs[1:] for path in (run.start.out, run.dir)]
    assert "[2/3] seed 0: attention\n[3/3]" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_bugs_and_interruptions_end_the_queue(
    error: BaseException, scorer: Any, runs: list[StudyRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, runs[1], error)
    with pytest.raises(type(error)):
        run_pending(scorer, runs)
    assert scorer.scored == [runs[0].key]


@needs_locks
def test_runs_locked_by_another_process_come_last_and_are_not_trained_again(
    scorer: Any, runs: list[StudyRun], trained: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked_by_another_process(scorer.study, runs[0].key) as release:
        monkeypatch.setattr(time, "sleep", lambda _: (scorer.score_run(runs[0]), release()))
        scores, failures = run_pending(scorer, runs)
    assert scorer.scored == [runs[i].key for i in (1, 2, 0)]
    assert (scores.keys(), failures) == ({run.key for run in runs}, {})
    assert runs[0].dir not in trained


@needs_locks
@pytest.mark.usefixtures("trained")
def test_a_run_with_a_locked_warmup_is_retried_and_announced_once(
    scorer: Any, runs: list[StudyRun], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    waits: list[float] = []
    with locked_by_another_process(scorer.study, runs[0].start.out.name) as release:
        monkeypatch.setattr(
            time, "sleep", lambda s: release() if len(waits) == 2 else waits.append(s)
        )
        run_pending(scorer, runs[:1])
    assert scorer.scored == [runs[0].key]
    assert capsys.readouterr().err.count("seed 0: multi-layer\n") == 1


def test_processes_of_a_launch_fail_together(
    scorer: Any, runs: list[StudyRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one process went on to the next run, the others would wait for it in this one."""
    launch = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr(module, "join_processes", lambda device: launch)
    fail_at(monkeypatch, runs[0], ValueError("the disk is full"))
    with pytest.raises(ValueError, match="the disk is full"):
        run_pending(scorer, runs)
    assert scorer.scored == []
