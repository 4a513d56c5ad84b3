"""How commands end when the machine will not have it: a sentence, never a hang."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from underdrawing.experiments import main
from underdrawing.experiments.errors import explain_error
from underdrawing.experiments.main import run_command

GLOO = "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"
IN_WORKER = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "fetch.py", line 3, in fetch\n{0}: a.png is gone: no neighbor\n'
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("a.png is no picture"), "a.png is no picture"),
        (ValueError(IN_WORKER.format("ValueError")), "a.png is gone: no neighbor"),
        (OSError(IN_WORKER.format("OSError")), "a.png is gone: no neighbor"),
        (OSError(errno.ENOSPC, "No space left on device", "x/metrics.jsonl"),
         "x/metrics.jsonl: No space left on device; make room and run the same command again"),
        (OSError(errno.ENOSPC, "No space left on device"),
         "No space left on device; make room and run the same command again"),
        (OSError(errno.EROFS, "Read-only file system", "x"),
         "x: Read-only file system; choose a folder that can be written to"),
        (PermissionError(errno.EACCES, "Permission denied", "x"),
         "x: Permission denied; change its permissions or choose another place"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
         "x: No such file or directory"),
        (OSError("that might take 9.0 GB"), "that might take 9.0 GB"),
        (MemoryError(), "not enough memory: lower --size or --batch-size, or raise --accumulate"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "not enough memory: lower --size"),
        (RuntimeError(CPU), "not enough memory: lower --size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--workers"),
        (RuntimeError("unable to write to file </torch_7_1>: No space left"), "--workers"),
        (RuntimeError(GLOO), "another process of this run has died; its own message says why"),
        (RuntimeError("gloo/ Timed out waiting 1800000ms for recv operation"), "does not answer"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "has died"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_a_sentence(error: Exception, sentence: str) -> None:
    said = explain_error(error, "train")
    assert said is not None
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize("bug", [RuntimeError("mat1 and mat2"), RecursionError("maximum depth")])
def test_a_bug_is_not_explained_away(bug: Exception) -> None:
    assert explain_error(bug, "train") is None


def running(monkeypatch: pytest.MonkeyPatch, body: Callable[[], object]) -> None:
    """Run a command of this body."""
    module = SimpleNamespace(command=lambda arguments: body())
    monkeypatch.setattr(main, "import_module", lambda *_: module)
    run_command("train", [])


def test_memory_that_runs_out_ends_in_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        running(monkeypatch, lambda: torch.empty(2**60, dtype=torch.uint8))
    assert "there is not enough memory: lower --size" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        running(monkeypatch, lambda: torch.ones(2, 3) @ torch.ones(2, 3))


def test_names_of_any_bytes_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running(monkeypatch, lambda: print("caf\udce9.png"))
    assert capsys.readouterr().out == "caf\\udce9.png\n"


def test_nobody_reading_the_output_is_no_mistake() -> None:
    code = (
        "from underdrawing.experiments import main, train\n"
        "train.command = lambda _: [print('line') for _ in range(100_000)]\n"
        "main.run_command('train', [])"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait(60) == 128 + signal.SIGPIPE


DYING = """
import os, signal, sys
from underdrawing.experiments.main import run_command
from underdrawing.trainers.train_step import Learner
step, steps, ending, words = Learner.step, [], sys.argv[1], sys.argv[2:]
def dying(self, *arguments):
    steps.append(arguments)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        exec(ending)
    return step(self, *arguments)
Learner.step = dying
run_command("train", words)
"""


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "exitcode: -9"),
        ("raise AssertionError('a bug')", "AssertionError: a bug"),
        pytest.param(
            "raise ValueError('a mistake')", "underdrawing: a mistake", marks=pytest.mark.long
        ),
    ],
)
def test_a_process_that_dies_ends_the_run_with_its_reason(
    folders: tuple[Path, Path], tmp_path: Path, cache: Path, ending: str, said: str
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
        assert said in output
        assert "another process of this run has died" in output
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
        time.sleep(1)
        assert not processes_with(str(tmp_path))
    finally:
        for process in processes_with(str(tmp_path)):
            process.kill()


def processes_with(word: str) -> list[psutil.Process]:
    """Running processes that have a word on their command line."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(word in part for part in p.info["cmdline"] or [])]
