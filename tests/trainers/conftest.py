"""Fixtures for tests of whole commands, most of which run as forks of one process for speed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from underdrawing.trainers.checkpoint import checkpoints
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.tensor_files import read_tensors
from underdrawing.trainers.trainer import train


class Ended(NamedTuple):
    """How the processes of a command ended."""

    codes: list[int]  # exit codes; minus the signal for killed processes
    children: list[int]  # process ids, which are also their session ids
    log: str  # their output


def to_words(options: Mapping[str, object]) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="session")
def trained_runs() -> list[Path]:
    return []


@pytest.fixture
def finished(
    tiny: Callable[..., TrainConfig], trained_runs: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The run directory of ``tiny()`` after its last step; the training is done once."""
    if not trained_runs:
        folder = tmp_path_factory.mktemp("trained")
        trained_runs.append(train(tiny(out=folder / "run", image_every=99, validate_every=2)))
    return Path(shutil.copytree(trained_runs[0], tiny().out))


@pytest.fixture(scope="session")
def options(folders: tuple[Path, Path]) -> dict[str, object]:
    """Options of a training that takes a second, except ``out``."""
    return {
        "recipe": "attention-adversarial", "photos": folders[0], "paintings": folders[1],
        "size": 32, "batch-size": 2, "steps": 4, "workers": 0, "device": "cpu",
        "precision": "fp32", "log-every": 1, "image-every": 2, "save-every": 2,
        "validate-every": 2, "generator.width": 8, "generator.blocks": 1, "adversarial.width": 8,
    }  # fmt: skip


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    """Environment of commands: the test cache, one thread."""
    without = {name: value for name, value in os.environ.items() if name != "UNDERDRAWING_WEIGHTS"}
    return without | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def command_line() -> Callable[..., list[str]]:
    """``command_line(options, processes)``: the words that train in processes of their own."""

    def make(options: Mapping[str, object], processes: int = 1) -> list[str]:
        words = ["-m", "underdrawing.experiments.train", *to_words(options)]
        if processes == 1:
            return [sys.executable, *words]
        launch = {
            "num_processes": processes, "num_machines": 1, "main_process_port": 0,
            "mixed_precision": "no", "dynamo_backend": "no",
        }  # fmt: skip
        # With --cpu, accelerate would start a single process.
        accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
        return [*accelerate, *to_words(launch), *words]

    return make


@pytest.fixture(scope="session")
def run_fork(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Ended]]:
    """``run_fork(options, **request)``: train (or ``command=...``) in forks, see kill_cases.py."""
    logs, numbers = tmp_path_factory.mktemp("logs"), count()
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_cases.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as server:  # fmt: skip
        requests, answers = server.stdin, server.stdout
        assert requests
        assert answers

        def run(options: Mapping[str, object], command: str = "train", **request: Any) -> Ended:
            log = logs / f"{next(numbers)}.txt"
            request |= {"command": command, "words": to_words(options), "log": str(log)}
            print(json.dumps(request, default=str), file=requests, flush=True)
            return Ended(**json.loads(answers.readline()), log=log.read_text())

        yield run


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """``assert_same_run(a, b)``: same models, last checkpoints and metrics, bit for bit."""

    def check(a: Path, b: Path) -> None:
        for run in ("", "best"):
            assert_same_tensors(a / run / "model.safetensors", b / run / "model.safetensors")
            assert_same_tensors(checkpoints(a / run)[-1], checkpoints(b / run)[-1])
        assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
        assert not list(a.rglob(".*.part"))

    return check


def assert_same_tensors(a: Path, b: Path) -> None:
    x, y = read_tensors(a), read_tensors(b)
    assert (a.name, x.metadata, x.tensors.keys()) == (b.name, y.metadata, y.tensors.keys())
    assert all(torch.equal(tensor, y.tensors[name]) for name, tensor in x.tensors.items())
