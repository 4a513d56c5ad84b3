"""Records of a run: ``metrics.jsonl``, TensorBoard, and the origin of data and weights."""

import json
import math
import platform
import subprocess
import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import __version__
from ..data.files import content_hash, name_file_in_errors, write_atomic
from ..models.pretrained import Pretrained
from .checkpoint import saved_step
from .config import TrainConfig, to_json
from .model_files import model_folder

PACKAGES = ("torch", "torchvision", "kornia", "accelerate", "torchmetrics", "safetensors", "pillow")


class Tracker:
    """Write scalars to ``metrics.jsonl`` and TensorBoard, images to TensorBoard.

    When a run is resumed, entries after the checkpoint's step are dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        if self.path.is_file():
            lines = self.path.read_text(errors="replace").splitlines(keepends=True)
            write_atomic(self.path, "".join(line for line in lines if _is_kept(line, step)))
        threading.excepthook = _ignore_writer_error
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one line; non-finite values are left out, as JSON cannot express them."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        with name_file_in_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """Write an image (3,H,W) in [0,1]."""
        self.writer.add_image(name, image, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush and close; after an error, such as a full disk, report that one only."""
        with suppress(OSError) if kind else nullcontext():
            self.writer.close()


def _ignore_writer_error(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's thread: its OSError is raised again by the next call."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _is_kept(line: str, step: int) -> bool:
    """Return whether a line is complete (a crash may truncate it) and not after the step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, LookupError, TypeError):
        return False


def write_description(
    config: TrainConfig,
    manifest: dict[str, dict[str, Any]],
    pretrained: Pretrained,
    accelerator: Accelerator,
) -> None:
    """Write ``config.json``, ``manifest.json`` and ``run.json`` of a run that starts or resumes.

    Raises:
        ValueError: the run was started with other encoder weights.
    """
    run, precision = config.out, accelerator.mixed_precision
    encoder = {
        "name": pretrained.name, "source": pretrained.source, "sha256": pretrained.sha256
    }  # fmt: skip
    path = run / "run.json"
    previous = _read_description(path)
    if not previous and path.is_file():
        warnings.warn(f"{path} is damaged; writing it again", stacklevel=2)
    if previous and previous["encoder"] != pretrained.sha256:
        raise ValueError(
            f"{run} was started with other weights of {pretrained.name} than those found now "
            f"({pretrained.source}); choose another --out, or pass --encoder.weights-dir"
        )
    if previous and previous["precision"] != precision:
        warnings.warn(
            f"precision changed since {run} was started; resuming, but the result will differ "
            "from an uninterrupted run",
            stacklevel=2,
        )
    # A run that is resumed does not need its initial model any more.
    start = previous["init"] if previous and saved_step(run) else initial_model(config)
    about = provenance(
        encoder=encoder, device=str(accelerator.device), processes=accelerator.num_processes,
        precision=precision, init=start,
        data={name: part["sha256"] for name, part in manifest.items()},
    )  # fmt: skip
    write_atomic(run / "config.json", to_json(config))
    write_atomic(run / "manifest.json", json.dumps(manifest, indent=1))
    write_atomic(path, json.dumps(about, indent=1))


def initial_model(config: TrainConfig) -> str | None:
    """Return the SHA-256 of the model that a run starts from; None if it starts from scratch."""
    return content_hash(model_folder(config.init) / "model.safetensors") if config.init else None


def started_from(run: Path) -> str | None:
    """Return ``initial_model`` as recorded in a run directory."""
    return _read_description(run / "run.json").get("init")


def _read_description(path: Path) -> dict[str, Any]:
    """Return what a run was started with; empty for a new run or a damaged file."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {
            "precision": about["precision"], "encoder": about["encoder"]["sha256"],
            "init": about["init"],
        }  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


@cache
def commit() -> str | None:
    """Return the git commit of this code, marked if changed since; None if installed without."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return None


def provenance(**more: Any) -> dict[str, Any]:
    """Return versions, machine and command line, for records of a result."""
    return {
        "underdrawing": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],  # without the installation's path
        **more,
    }
