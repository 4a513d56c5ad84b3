"""Runs commands as forks of one process that has imported everything, and ends them as asked.

A script: each line of its input is a request in JSON (see ``live``), answered by a line of JSON,
the exit codes of the processes started (minus the signal for those killed).
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
from typing import Any

import torch
import torch.utils.tensorboard
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.nn.utils import get_total_norm
from underdrawing.data.dataset import RawBatch
from underdrawing.experiments import evaluation, main, reproduce, train  # noqa: F401
from underdrawing.trainers import train_step, trainer
from underdrawing.trainers.train_step import ForwardResult, TrainStep
from underdrawing.trainers.validation import Validation

Request = dict[str, Any]

#: Where a life may end: at a function's call, or half-way through what is written to the file
#: that is opened; and for which files or folders. The run's folder is called ``run``.
POINTS: dict[str, tuple[Any, str, str]] = {
    "preparing": (Path, "open", "prepared/.*.part"),
    "configuration": (Path, "open", "run/.config.json.*.part"),
    "rewriting metrics": (Path, "open", "run/.metrics.jsonl.*.part"),
    "gradients": (train_step, "discriminator_loss", ""),  # G's are there, D's are not
    "update": (train_step, "average_into", ""),  # G and D are updated, the average is not
    "metrics": (Path, "open", "run/metrics.jsonl"),
    "validation": (Validation, "_pair", ""),
    "best model": (Path, "open", "best/.model.safetensors.*.part"),
    "best checkpoint": (Path, "open", "best/checkpoints/.step-*.part"),
    "model": (Path, "open", "run/.model.safetensors.*.part"),
    "between model and checkpoint": (trainer, "save_checkpoint", "run"),
    "checkpoint": (Path, "open", "run/checkpoints/.step-*.part"),
    "renaming": (Path, "replace", "run/checkpoints/.step-*.part"),
    "deleting": (Path, "unlink", "run/checkpoints/step-*"),
    "events": (RecordWriter, "write", ""),  # in a thread of TensorBoard's
    "scoring": (evaluation, "measure", ""),
    "scores": (Path, "open", ".scores.json.*.part"),
}


def kill() -> None:
    """What no process can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    """What a full disk does to a writer."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end_at(point: str, nth: int, end: Callable[[], None]) -> None:
    """Call ``end`` the nth time that a point is reached."""
    owner, name, pattern = POINTS[point]
    original, calls = getattr(owner, name), count(1)

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


def keep_diary(path: Path) -> None:
    """Append a line to a file as each step begins."""
    step = TrainStep.step

    def noted(self: TrainStep, number: int, packed: RawBatch) -> ForwardResult:
        _append(path, number)
        return step(self, number, packed)

    TrainStep.step = noted  # type: ignore[method-assign,assignment]


def record(path: Path) -> None:
    """Append to a file what each step did: gradient norms, what was skipped, the state after it."""
    step, update = TrainStep.step, TrainStep._update
    norms: dict[str, float] = {}

    def measured(self: TrainStep, number: int, finite: torch.Tensor) -> torch.Tensor:
        n = self.networks
        for name, module in (("g", n.plain_generator), ("d", n.plain_discriminator)):
            assert module is not None
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            norms[name] = float(get_total_norm(gradients))
        return update(self, number, finite)

    def recorded(self: TrainStep, number: int, packed: RawBatch) -> ForwardResult:
        scene = step(self, number, packed)
        verdict = self.checks[-1]
        _append(
            path,
            {
                "rank": self.accelerator.process_index,
                "step": number,
                "positions": verdict.position.tolist(),
                "skipped": bool(verdict.skipped),
                "norms": norms,
                "balance": self.balance.norms.tolist(),
                "state": {n: _digest(m) for n, m in self.networks.modules().items()},
            },
        )
        return scene

    TrainStep._update = measured  # type: ignore[method-assign,assignment]
    TrainStep.step = recorded  # type: ignore[method-assign,assignment]


def _digest(module: torch.nn.Module) -> str:
    """Of all weights and buffers, the spectral vectors among them."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _append(path: Path, line: object) -> None:
    with path.open("a") as file:  # a line is one write, so that processes may share the file
        file.write(json.dumps(line) + "\n")


def poison(number: int, rank: int) -> None:
    """Make the first picture of one process's batch, in one step, not a number."""
    step = TrainStep.step

    def poisoned(self: TrainStep, at: int, packed: RawBatch) -> ForwardResult:
        if (at, self.accelerator.process_index) == (number, rank):
            packed["strength"][0] = torch.nan
        return step(self, at, packed)

    TrainStep.step = poisoned  # type: ignore[method-assign,assignment]


def live(request: Request, rank: int, port: int) -> None:
    """One process: what ``python -m underdrawing.experiments.COMMAND WORDS`` does.

    The request's entries: ``command`` and its ``words``; ``log``, the file for what it prints;
    and, if wanted, ``ranks`` (how many processes), ``diary`` and ``record`` (files, see there),
    ``point`` and ``nth`` (where it ends), ``full`` (by a full disk instead of SIGKILL), ``after``
    (seconds until it is killed from outside), ``poison`` (step and rank).
    """
    os.setsid()  # so that its loader's workers can be told from others
    signal.alarm(250)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if (ranks := request.get("ranks", 1)) > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if path := request.get("diary"):
        keep_diary(Path(path))
    if path := request.get("record"):
        record(Path(path))
    if where := request.get("poison"):
        poison(*where)
    if point := request.get("point"):
        end_at(point, request.get("nth", 1), fill if request.get("full") else kill)
    main.run_command(request["command"], request["words"])


def wait(children: list[int], after: float | None) -> list[int]:
    """Exit codes of all children, each killed after so many seconds."""
    deadline = time.monotonic() + after if after else None
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        time.sleep(0.01)
        for child in set(children) - codes.keys():
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            elif deadline and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
    return [codes[child] for child in children]


def serve() -> None:
    """Answer requests until there are no more; in a child, live."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children: list[int] = []
        for rank in range(request.get("ranks", 1)):
            if (child := os.fork()) == 0:
                live(request, rank, port)
                return
            children.append(child)
        codes = wait(children, request.get("after"))
        print(json.dumps({"children": children, "codes": codes}), flush=True)


if __name__ == "__main__":
    serve()
