"""A full disk, an unusable directory or a stop signal ends a run with one sentence, and the last
complete checkpoint remains to resume from.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from underdrawing.trainers.checkpoint import saved_step

RunFork = Callable[..., Any]  # the fixtures of these names
SameRun = Callable[[Path, Path], None]
Options = dict[str, object]
CommandLine = Callable[..., list[str]]
Environment = dict[str, str]


def error_message(log: str) -> str:
    """Return the one error message of a command."""
    assert "Traceback" not in log
    (message,) = re.findall(r"^underdrawing train: (.*)", log, re.MULTILINE)
    return message


def test_run_survives_a_repeatedly_full_disk(
    run_fork: RunFork, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = options | {"steps": 6}
    assert run_fork(options | {"out": whole}).codes == [0]
    for point, nth in (("best checkpoint", 1), ("metrics", 2), ("events", 60), ("checkpoint", 1)):
        ended = run_fork(options | {"out": run}, point=point, nth=nth, full=True)
        assert ended.codes == [2], f"{point}: {ended.log}"
        message, step = error_message(ended.log), saved_step(run)
        assert "No space left on device" in message
        if point == "checkpoint":
            assert f"complete checkpoint is that of step {step};" in message
        assert not list(run.rglob(".*.part"))
    assert run_fork(options | {"out": run}).codes == [0]
    assert_same_run(run, whole)


def test_file_in_place_of_the_run_folder(
    run_fork: RunFork, options: Options, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ended = run_fork(options | {"out": tmp_path / "file" / "run"})
    assert ended.codes == [2]
    assert f"{tmp_path / 'file'}" in error_message(ended.log)


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 2, marks=pytest.mark.long)],
)
def test_stop_signal_saves_and_ends_the_run_within_seconds(
    number: int, processes: int, options: Options, command_line: CommandLine,
    environment: Environment, tmp_path: Path,
) -> None:  # fmt: skip
    """The whole process group gets the signal, loader workers included, as from a terminal."""
    run = tmp_path / "run"
    never = {"steps": 100_000, "save-every": 100_000, "validate-every": 100_000}
    words = command_line(options | {"out": run, "workers": 1} | never, processes)
    training = subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (run / "metrics.jsonl").is_file():
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    os.killpg(training.pid, number)
    _, log = training.communicate(timeout=20)
    assert json.loads((run / "run.json").read_text())["processes"] == processes
    assert (step := saved_step(run)) > 0
    assert f"stopped after step {step} of 100000; run the same command again" in log
    if processes == 1:  # with more, the launcher prints a traceback and sets the exit code
        assert "Traceback" not in log
        assert training.returncode == 130
