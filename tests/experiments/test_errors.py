import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from underdrawing.experiments.errors import explain_error

GLOO = "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"
IN_WORKER = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "fetch.py", line 3, in fetch\n{0}: a.png is gone: no neighbor\n'
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a.png is no image"), "a.png is no image"),
        (ValueError(IN_WORKER.format("ValueError")), "a.png is gone: no neighbor"),
        (OSError(errno.ENOSPC, "No space left on device", "x/metrics.jsonl"),
         "x/metrics.jsonl: No space left on device; free some space and run the same command"),
        (OSError(errno.EROFS, "Read-only file system", "x"),
         "x: Read-only file system; choose a writable folder"),
        (PermissionError(errno.EACCES, "Permission denied", "x"),
         "x: Permission denied; change its permissions or choose another path"),
        (OSError("that might take 9.0 GB"), "that might take 9.0 GB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: lower --size"),
        (MemoryError(), "out of memory: lower --size or --batch-size, or raise --accumulate"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "out of memory: lower --size"),
        (RuntimeError(CPU), "out of memory: lower --size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "out of memory: lower"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--workers"),
        (RuntimeError("unable to write to file </torch_7_1>: No space left"), "--workers"),
        (RuntimeError(GLOO), "another process of this run has died"),
        (RuntimeError("gloo/ Timed out waiting 1800000ms for recv operation"), "does not answer"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "has died"),
    ],
)  # fmt: skip
def test_expected_errors_become_one_line(error: Exception, message: str) -> None:
    explanation = explain_error(error, "train")
    assert explanation is not None
    assert message in explanation
    assert "\n" not in explanation


@pytest.mark.parametrize("bug", [RuntimeError("mat1 and mat2"), RecursionError("maximum depth")])
def test_bug_is_not_explained(bug: Exception) -> None:
    assert explain_error(bug, "train") is None


long = pytest.mark.long
DYING = """
import os, signal, sys
from underdrawing.experiments.main import run_command
from underdrawing.trainers.train_step import TrainStep
step, steps, ending, words = TrainStep.step, [], sys.argv[1], sys.argv[2:]
def dying(self, *arguments):
    steps.append(arguments)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        exec(ending)
    return step(self, *arguments)
TrainStep.step = dying
run_command("train", words)
"""


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "exitcode: -9"),
        pytest.param("raise AssertionError('a bug')", "AssertionError: a bug", marks=long),
        pytest.param("raise ValueError('a mistake')", "underdrawing train: a mistake", marks=long),
    ],
)
def test_death_of_one_process_ends_the_run_with_its_reason(
    folders: tuple[Path, Path], tmp_path: Path, cache: Path, ending: str, message: str
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    words = [
        "--photos", folders[0], "--paintings", folders[1], "--out", tmp_path / "run",
        "--size", 32, "--batch-size", 2, "--steps", 100_000, "--workers", 1, "--device", "cpu",
        "--generator.width", 8, "--generator.blocks", 1, "--save-every", 2,
    ]  # fmt: skip
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2,
              "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", 0, tmp_path / "dying.py", ending]  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, "-m", *map(str, [*launch, *words])],
        env=os.environ | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = run.communicate(timeout=120)
        assert run.returncode != 0
        assert message in output
        assert "another process of this run has died" in output
        assert list((tmp_path / "run" / "checkpoints").iterdir())
        time.sleep(1)
        assert not processes_with(str(tmp_path))
    finally:
        for process in processes_with(str(tmp_path)):
            process.kill()


def processes_with(word: str) -> list[psutil.Process]:
    """Return running processes with a word on their command line."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(word in part for part in p.info["cmdline"] or [])]
