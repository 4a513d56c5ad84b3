"""Fixtures for tests of whole runs, which start real commands: cheaply, as forks of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from underdrawing.trainers.checkpoint import checkpoints
from underdrawing.trainers.tensor_files import read_tensors


class Ended(NamedTuple):
    """How the processes of a command ended."""

    codes: list[int]  # exit codes; minus the signal for those killed
    children: list[int]  # their ids, which are those of their sessions as well
    log: str  # what they printed


def kept_files(run: Path) -> list[Path]:
    """All that a finished run keeps of its state."""
    folders = (run, run / "best")
    return [f / "model.safetensors" for f in folders] + [checkpoints(f)[-1] for f in folders]


def identical(a: Path, b: Path) -> bool:
    x, y = read_tensors(a), read_tensors(b)
    return (a.name, x.metadata, x.tensors.keys()) == (b.name, y.metadata, y.tensors.keys()) and all(
        torch.equal(tensor, y.tensors[name]) for name, tensor in x.tensors.items()
    )


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """``assert_same_run(run, whole)``: to the bit; and nothing is left lying about."""

    def check(run: Path, whole: Path) -> None:
        assert all(identical(*two) for two in zip(kept_files(run), kept_files(whole), strict=True))
        assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
        assert not list(run.rglob(".*.part"))

    return check


def to_words(options: Mapping[str, object]) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """``command(name, options, processes)``: the real one, as a list of words."""

    def make(name: str, options: Mapping[str, object], processes: int = 1) -> list[str]:
        words = ["-m", f"underdrawing.experiments.{name}", *to_words(options)]
        if processes == 1:
            return [sys.executable, *words]
        launch = {
            "num_processes": processes, "num_machines": 1, "main_process_port": 0,
            "mixed_precision": "no", "dynamo_backend": "no",
        }  # fmt: skip
        # With --cpu it would start a single process, whatever else it is told.
        accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
        return [*accelerate, *to_words(launch), *words]

    return make


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    """For commands: the test cache, one thread."""
    without = {name: value for name, value in os.environ.items() if name != "UNDERDRAWING_WEIGHTS"}
    return without | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def live(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Ended]]:
    """``live(command, options, **request)``: run a command in a fork, see lives.py."""
    logs, number = tmp_path_factory.mktemp("logs"), count()
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("lives.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as server:  # fmt: skip
        requests, answers = server.stdin, server.stdout
        assert requests
        assert answers

        def run(command: str, options: Mapping[str, object], **request: Any) -> Ended:
            log = logs / f"{next(number)}.txt"
            words = to_words(options)
            request |= {"command": command, "words": words, "log": str(log)}
            print(json.dumps(request, default=str), file=requests, flush=True)
            return Ended(**json.loads(answers.readline()), log=log.read_text())

        yield run


@pytest.fixture(scope="session")
def options(folders: tuple[Path, Path]) -> dict[str, object]:
    """Of a training that takes a second; ``out`` is for the test to say."""
    return {
        "recipe": "attention-adversarial", "photos": folders[0], "paintings": folders[1],
        "size": 32, "batch-size": 2, "steps": 4, "workers": 0, "device": "cpu",
        "precision": "fp32", "log-every": 1, "image-every": 2, "save-every": 2,
        "validate-every": 2, "generator.width": 8, "generator.blocks": 1, "adversarial.width": 8,
    }  # fmt: skip
