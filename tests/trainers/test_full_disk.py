"""A full disk, an unusable directory or a stop signal ends a run with one sentence, and the last
complete checkpoint remains to resume from.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from underdrawing.trainers.checkpoint import checkpoints, saved_step
from underdrawing.trainers.tensor_files import read_tensors

RunFork = Callable[..., Any]  # the fixtures of these names
SameRun = Callable[[Path, Path], None]
Options = dict[str, object]
CommandLine = Callable[..., list[str]]
Environment = dict[str, str]

NAMESPACE = ["unshare", "--map-root-user", "--mount"]  # in which any user may mount
SCRIPT = """
disk=$1 copies=$2; shift 2
mount -t tmpfs -o size=11m none "$disk"
"$@" 2> "$copies/full.log"; echo $? >> "$copies/codes"
cp -r "$disk/run" "$copies/full"
mount -o remount,size=1g "$disk"
"$@" 2> "$copies/space.log"; echo $? >> "$copies/codes"
cp -r "$disk/run" "$copies/space"
mount -o remount,ro "$disk"
"$@" --steps 5 2> "$copies/read-only.log"; echo $? >> "$copies/codes"
"""


def error_message(log: str) -> str:
    """Return the one error message of a command."""
    assert "Traceback" not in log
    (message,) = re.findall(r"^underdrawing train: (.*)", log, re.MULTILINE)
    return message


def test_full_and_read_only_file_system(
    run_fork: RunFork, options: Options, command_line: CommandLine, environment: Environment,
    assert_same_run: SameRun, tmp_path: Path,
) -> None:  # fmt: skip
    disk, copies, whole = (tmp_path / name for name in ("disk", "copies", "whole"))
    disk.mkdir()
    copies.mkdir()
    mount = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(disk)]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    options = options | {"save-every": 1, "steps": 4}
    assert run_fork(options | {"out": whole}).codes == [0]
    words = command_line(options | {"out": disk / "run"})
    script = [*NAMESPACE, "sh", "-c", SCRIPT, "sh", str(disk), str(copies), *words]
    subprocess.run(script, env=environment, stdout=subprocess.DEVNULL, check=True)

    logs = {path.stem: path.read_text() for path in copies.glob("*.log")}
    assert (copies / "codes").read_text().split() == ["2", "0", "2"], logs
    step = saved_step(copies / "full")
    assert read_tensors(checkpoints(copies / "full")[-1]).metadata == {"step": str(step)}
    assert not list((copies / "full").rglob(".*.part"))
    message = error_message(logs["full"])
    assert "No space left on device" in message
    assert f"complete checkpoint is that of step {step};" in message
    assert_same_run(copies / "space", whole)
    assert "Read-only file system" in error_message(logs["read-only"])


def test_run_survives_a_repeatedly_full_disk(
    run_fork: RunFork, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = options | {"steps": 6}
    assert run_fork(options | {"out": whole}).codes == [0]
    for point, nth in (("best checkpoint", 1), ("metrics", 2), ("events", 60), ("checkpoint", 1)):
        ended = run_fork(options | {"out": run}, point=point, nth=nth, full=True)
        assert ended.codes == [2], f"{point}: {ended.log}"
        assert "No space left on device" in error_message(ended.log)
        assert not list(run.rglob(".*.part"))
    assert run_fork(options | {"out": run}).codes == [0]
    assert_same_run(run, whole)


def test_file_in_place_of_the_run_directory(
    run_fork: RunFork, options: Options, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ended = run_fork(options | {"out": tmp_path / "file" / "run"})
    assert ended.codes == [2]
    assert f"{tmp_path / 'file'}" in error_message(ended.log)


@pytest.mark.parametrize(
    ("number", "processes"),
    [
        (signal.SIGTERM, 1),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2))
        ),
    ],
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
