"""Run commands as forks of a process that has imported everything, and end them as requested.

A script: each line of its input is a request in JSON, answered by a line of JSON with process ids
and exit codes. A request has the entries ``command``, ``words`` (its arguments), ``log`` (file for
its output) and optionally

- ``ranks``: number of processes,
- ``point``, ``nth``: the process is killed when it reaches this point for the nth time,
- ``full``: at that point, raise the error of a full disk instead,
- ``after``: seconds until it is killed,
- ``diary``: file to which each step appends its number,
- ``record``: file to which each step appends what it did,
- ``poison``: step and rank of a batch in which an image gets the strength NaN.
"""

import errno
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.utils.tensorboard
from torch.nn.utils import get_total_norm
from underdrawing.data.dataset import RawBatch
from underdrawing.experiments import main, train  # noqa: F401  (imported before the forks)
from underdrawing.trainers.train_step import StepImages, TrainStep

Request = dict[str, Any]
Step = Callable[[TrainStep, int, RawBatch], StepImages | None]

TRAINERS = "underdrawing.trainers"
#: Where a process can be ended: at the call of a function, or half-way through a write to an opened
#: file; only for paths that match the pattern. The run directory is called ``run``.
POINTS = {
    "image cache": ("pathlib:Path.open", "images/*/.*.part"),
    "configuration": ("pathlib:Path.open", "run/.config.json.*.part"),
    "rewriting metrics": ("pathlib:Path.open", "run/.metrics.jsonl.*.part"),
    "discriminator": (f"{TRAINERS}.train_step:discriminator_loss", ""),  # G has its gradients
    "averaging": (f"{TRAINERS}.train_step:average_into", ""),  # G and D are updated
    "metrics": ("pathlib:Path.open", "run/metrics.jsonl"),
    "validation": (f"{TRAINERS}.validation:Validation._pair", ""),
    "best model": ("pathlib:Path.open", "best/.model.safetensors.*.part"),
    "best checkpoint": ("pathlib:Path.open", "best/checkpoints/.step-*.part"),
    "model": ("pathlib:Path.open", "run/.model.safetensors.*.part"),
    "between model and checkpoint": (f"{TRAINERS}.trainer:save_checkpoint", "run"),
    "checkpoint": ("pathlib:Path.open", "run/checkpoints/.step-*.part"),
    "renaming": ("pathlib:Path.replace", "run/checkpoints/.step-*.part"),
    "deleting": ("pathlib:Path.unlink", "run/checkpoints/step-*"),
    "events": ("tensorboard.summary.writer.record_writer:RecordWriter.write", ""),  # in a thread
    "scoring": ("underdrawing.experiments.scoring.protocol:pair_metrics", ""),
    "scores": ("pathlib:Path.open", "scores/*/.*.json.*.part"),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end_at(point: str, nth: int, end: Callable[[], None]) -> None:
    """Call ``end`` when the point is reached for the nth time."""
    target, pattern = POINTS[point]
    owner_name, _, name = target.replace(":", ".").rpartition(".")
    owner, calls = resolve_name(owner_name), count(1)
    original = getattr(owner, name)

    def reached() -> None:
        if next(calls) == nth:
            end()

    def wrapped(first: Any, *rest: Any, **named: Any) -> Any:
        if pattern and not first.match(pattern):
            return original(first, *rest, **named)
        if name != "open":
            reached()
            return original(first, *rest, **named)
        file = original(first, *rest, **named)
        write = file.write

        def torn(content: Any) -> int:
            half = len(content) // 2
            write(content[:half])
            file.flush()
            reached()
            return half + write(content[half:])

        file.write = torn
        return file

    setattr(owner, name, wrapped)


def append(path: Path, line: object) -> None:
    with path.open("a") as file:  # one write per line, so that processes can share the file
        file.write(json.dumps(line) + "\n")


def wrap_step(wrap: Callable[[Step, TrainStep, int, RawBatch], StepImages | None]) -> None:
    step = TrainStep.step

    def wrapped(self: TrainStep, number: int, raw: RawBatch) -> StepImages | None:
        return wrap(step, self, number, raw)

    setattr(TrainStep, "step", wrapped)  # noqa: B010


def record(path: Path) -> None:
    """Append gradient norms, skipped steps and a digest of the state to a file."""
    update, norms = TrainStep._update, list[float]()

    def measured(self: TrainStep, finite: torch.Tensor) -> torch.Tensor:
        modules = self.networks.plain_generator, self.networks.plain_discriminator
        gradients = [[p.grad for p in m.parameters() if p.grad is not None] for m in modules if m]
        norms[:] = [float(get_total_norm(g)) for g in gradients]
        return update(self, finite)

    def recorded(step: Step, self: TrainStep, number: int, raw: RawBatch) -> StepImages | None:
        result, check = step(self, number, raw), self.checks[-1]
        line = {
            "step": number,
            "rank": self.accelerator.process_index,
            "positions": check.position.tolist(),
            "skipped": bool(check.skipped),
            "norms": norms,
            "balance": self.balance.norms.tolist(),
            "state": {name: digest(m) for name, m in self.networks.modules().items()},
        }
        append(path, line)
        return result

    setattr(TrainStep, "_update", measured)  # noqa: B010
    wrap_step(recorded)


def digest(module: torch.nn.Module) -> str:
    tensors = module.state_dict().values()
    return hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in tensors)).hexdigest()


def run(request: Request, rank: int, port: int) -> None:
    """Do in this process what ``underdrawing COMMAND WORDS`` does."""
    os.setsid()  # so that its loader's workers can be found
    signal.alarm(1800)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if (ranks := request.get("ranks", 1)) > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if path := request.get("record"):
        record(Path(path))

    def wrap(step: Step, self: TrainStep, number: int, raw: RawBatch) -> StepImages | None:
        if path := request.get("diary"):
            append(Path(path), number)
        if request.get("poison") == [number, self.accelerator.process_index]:
            raw["strength"][0] = torch.nan
        return step(self, number, raw)

    wrap_step(wrap)
    if point := request.get("point"):
        end_at(point, request.get("nth", 1), fill_disk if request.get("full") else kill)
    main.run_command(request["command"], request["words"])


def wait(children: list[int], after: float | None) -> list[int]:
    """Return the exit codes of all children, which are killed after so many seconds."""
    deadline = time.monotonic() + (after or float("inf"))
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        time.sleep(0.01)
        for child in set(children) - codes.keys():
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
    return [codes[child] for child in children]


def serve() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children: list[int] = []
        for rank in range(request.get("ranks", 1)):
            if (child := os.fork()) == 0:
                run(request, rank, port)
                return
            children.append(child)
        codes = wait(children, request.get("after"))
        print(json.dumps({"children": children, "codes": codes}), flush=True)


if __name__ == "__main__":
    serve()
