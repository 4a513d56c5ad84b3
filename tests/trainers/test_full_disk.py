"""A disk that is full, a folder that cannot be written to, a run that is told to stop: each is one
sentence, and the last whole checkpoint is there to go on from.
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

Live = Callable[..., Any]  # the fixture of that name
SameRun = Callable[[Path, Path], None]  # that of assert_same_run
Options = dict[str, object]
Command = Callable[..., list[str]]
Environment = dict[str, str]

LEAVING = 20  # seconds until a run that was told to stop has left, on a machine that is busy


def sentence(log: str) -> str:
    """The one that a command ends with."""
    assert "Traceback" not in log
    (said,) = re.findall(r"^underdrawing: (.*)", log, re.MULTILINE)
    return said


# --- a small file system ----------------------------------------------------------------------

NAMESPACE = ["unshare", "--map-root-user", "--mount"]  # in which anybody may mount
SCRIPT = """
disk=$1 left=$2; shift 2
mount -t tmpfs -o size=12m none "$disk"
"$@" 2> "$left/full.log"; echo $? >> "$left/codes"
cp -r "$disk/run" "$left/full"
mount -o remount,size=1g "$disk"
"$@" 2> "$left/room.log"; echo $? >> "$left/codes"
cp -r "$disk/run" "$left/room"
mount -o remount,ro "$disk"
"$@" --steps 5 2> "$left/read-only.log"; echo $? >> "$left/codes"
"""


def test_a_full_disk_and_one_that_is_read_only(
    live: Live, options: Options, command: Command, environment: Environment,
    assert_same_run: SameRun, tmp_path: Path,
) -> None:  # fmt: skip
    disk, left, whole = (tmp_path / name for name in ("disk", "left", "whole"))
    disk.mkdir()
    left.mkdir()
    mount = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(disk)]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    options = options | {"save-every": 1, "steps": 4}
    assert live("train", options | {"out": whole}).codes == [0]
    words = command("train", options | {"out": disk / "run"})
    script = [*NAMESPACE, "sh", "-c", SCRIPT, "sh", str(disk), str(left), *words]
    subprocess.run(script, env=environment, stdout=subprocess.DEVNULL, check=True)

    logs = {path.stem: path.read_text() for path in left.glob("*.log")}
    assert (left / "codes").read_text().split() == ["2", "0", "2"], logs
    last = checkpoints(left / "full")[-1]
    assert read_tensors(last).metadata == {"step": str(saved_step(left / "full"))}
    assert "No space left on device" in sentence(logs["full"])
    assert f"whole checkpoint is that of step {saved_step(left / 'full')};" in sentence(
        logs["full"]
    )
    assert not list((left / "full").rglob(".*.part"))
    assert_same_run(left / "room", whole)
    assert "Read-only file system; choose a folder" in sentence(logs["read-only"])


# --- the same on any machine ------------------------------------------------------------------


def test_a_disk_that_is_full_again_and_again(
    live: Live, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = options | {"steps": 8}
    assert live("train", options | {"out": whole}).codes == [0]
    ends = {
        "best checkpoint": 1,
        "metrics": 4,
        "rewriting metrics": 1,
        "events": 60,
        "checkpoint": 2,
    }
    for point, nth in ends.items():
        ended = live("train", options | {"out": run}, point=point, nth=nth, full=True)
        assert ended.codes == [2], f"{point}: {ended.log}"
        assert "No space left on device" in sentence(ended.log)
        assert not list(run.rglob(".*.part"))
    assert live("train", options | {"out": run}).codes == [0]
    assert_same_run(run, whole)


def test_a_file_where_the_folder_should_be(live: Live, options: Options, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = live("train", options | {"out": tmp_path / "file" / "run"})
    assert ended.codes == [2]
    assert f"{tmp_path / 'file'}" in sentence(ended.log)


# --- told to stop -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "processes"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.long),
    ],
)
def test_a_run_told_to_stop_saves_and_leaves_within_seconds(
    number: int, processes: int, options: Options, command: Command, environment: Environment,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The whole process group is told, as by a terminal."""
    run = tmp_path / "run"
    never = {"steps": 100_000, "save-every": 100_000, "validate-every": 100_000}
    words = command("train", options | {"out": run, "workers": 1} | never, processes)
    training = subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (run / "metrics.jsonl").is_file():
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    cond_strength = time.monotonic()
    os.killpg(training.pid, number)
    _, log = training.communicate(timeout=60)
    seconds = time.monotonic() - cond_strength
    print(f"{signal.Signals(number).name}, {processes} processes: left after {seconds:.1f} s")
    assert seconds < LEAVING
    assert json.loads((run / "run.json").read_text())["processes"] == processes
    step = saved_step(run)
    assert f"stopped after step {step} of 100000; run the same command again" in log
    assert step > 0
    if processes == 1:  # with more, the launcher shows a traceback and chooses the exit code
        assert "Traceback" not in log
        assert training.returncode == 130
