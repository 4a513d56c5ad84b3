"""The number of processes and micro-batches that share a batch does not change the result.

Apart from rounding: sums are taken in another order, and where a gradient is zero except for
rounding, Adam makes a full step of its sign. Largest differences measured against one process with
one micro-batch: of gradient norms 4e-6 (relative) in the first step and 2e-4 in 20 steps; of
weights 5e-5 after 2 steps and 7e-4 after 20.
"""

import json
import subprocess
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from underdrawing.trainers.checkpoint import checkpoints
from underdrawing.trainers.model_files import load_state
from underdrawing.trainers.tensor_files import read_tensors

RunFork = Callable[..., Any]  # the fixture of that name
Options = dict[str, object]
Line = dict[str, Any]

BATCH = 4
COMPARED_STEPS = 4  # afterwards, rounding has grown: tenfold in two to four steps


@pytest.fixture(scope="module")
def shared_options(options: Options) -> Options:
    """Train at full strength: otherwise some outputs differ from their photos by rounding only,
    which the target of the attention map amplifies.
    """
    return options | {
        "recipe": "gradient-balance", "balance.every": 2, "batch-size": BATCH,
        "full-strength-prob": 1.0, "keep-checkpoints": 20, "attention.final-steps": 1,
    }  # fmt: skip


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_record(path: Path) -> list[list[Line]]:
    """Return what each process recorded of each step."""
    lines = sorted(read_lines(path), key=lambda line: (line["step"], line["rank"]))
    return [list(step) for _, step in groupby(lines, lambda line: line["step"])]


class Shared(NamedTuple):
    """A run, and what each process recorded of each step."""

    run: Path
    steps: int
    record: list[list[Line]]


def train_shared(
    run_fork: RunFork, options: Options, steps: int, folder: Path, processes: int, accumulate: int
) -> Shared:
    run, record = folder / "run", folder / "record"
    options = options | {"out": run, "steps": steps, "accumulate": accumulate}
    ended = run_fork(options, ranks=processes, record=record)
    assert set(ended.codes) == {0}, ended.log
    return Shared(run, steps, read_record(record))


@pytest.fixture(scope="module", params=[4, pytest.param(20, marks=pytest.mark.long)])
def alone(
    request: pytest.FixtureRequest, run_fork: RunFork, shared_options: Options,
    tmp_path_factory: pytest.TempPathFactory,
) -> Shared:  # fmt: skip
    """One process without micro-batches."""
    folder = tmp_path_factory.mktemp("alone")
    return train_shared(run_fork, shared_options, request.param, folder, 1, 1)


def largest_difference(a: Path, b: Path) -> float:
    x, y = read_tensors(a).tensors, read_tensors(b).tensors
    networks = ("generator/", "discriminator/", "averaged/")
    return max(float((x[k] - y[k]).abs().max()) for k in x if k.startswith(networks))


@pytest.mark.parametrize(("processes", "accumulate"), [(4, 1), (2, 2)])
def test_sharing_a_batch_does_not_change_the_result(
    processes: int, accumulate: int, alone: Shared,
    run_fork: RunFork, shared_options: Options, tmp_path: Path,
) -> None:  # fmt: skip
    shared = train_shared(run_fork, shared_options, alone.steps, tmp_path, processes, accumulate)

    # The processes take all positions in order, and agree bit for bit.
    for number, ranks in enumerate(shared.record):
        positions = [position for rank in ranks for position in rank["positions"]]
        assert positions == list(range(number * BATCH, (number + 1) * BATCH))
        assert len(ranks) == processes
        for name in ("state", "norms", "balance", "skipped"):
            assert all(rank[name] == ranks[0][name] for rank in ranks), name

    # They do what one process does, up to rounding.
    assert shared.record[0][0]["norms"] == pytest.approx(alone.record[0][0]["norms"], rel=3e-5)
    for (rank, *_), (one,) in zip(
        shared.record[:COMPARED_STEPS], alone.record[:COMPARED_STEPS], strict=True
    ):
        assert rank["norms"] == pytest.approx(one["norms"], rel=2e-3)
        assert rank["balance"] == pytest.approx(one["balance"], rel=2e-3)
    for number, tolerance in ((2, 2e-4), (COMPARED_STEPS, 2e-3)):
        name = f"checkpoints/step-{number:07}.safetensors"
        assert largest_difference(shared.run / name, alone.run / name) < tolerance
    lines = (read_lines(run / "metrics.jsonl")[:COMPARED_STEPS] for run in (shared.run, alone.run))
    for a, b in zip(*lines, strict=True):
        for line in (a, b):
            line.pop("attention/correlation", None)  # rounding, as A is nearly flat
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


def test_non_finite_loss_on_one_process_skips_the_step_on_all(
    run_fork: RunFork, shared_options: Options, tmp_path: Path
) -> None:
    run, path = tmp_path / "run", tmp_path / "record"
    ended = run_fork(shared_options | {"out": run}, ranks=2, record=path, poison=[2, 1])
    assert ended.codes == [0, 0]
    record = read_record(path)
    for number, (first, second) in enumerate(record):
        assert first["skipped"] == second["skipped"] == (number == 2)
        assert first["state"] == second["state"]
        assert first["balance"] == second["balance"]
    generator = [first["state"]["generator"] for first, _ in record]
    assert generator[1] == generator[2] != generator[3]
    assert [line["skipped"] for line in read_lines(run / "metrics.jsonl")] == [0, 0, 1, 1]
    assert "step 3 skipped: non-finite loss for" in ended.log
    load_state(run)  # checks that all values are finite


@pytest.mark.long
def test_two_launched_processes_equal_one(
    run_fork: RunFork, options: Options, command_line: Callable[..., list[str]],
    environment: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    """With accelerate's launcher."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = options | {"batch-size": 4, "steps": 2}
    assert run_fork(options | {"out": one}).codes == [0]
    words = command_line(options | {"out": two}, processes=2)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    assert largest_difference(*(checkpoints(run)[-1] for run in (one, two))) < 2e-4
