"""What a run writes down: ``metrics.jsonl``, TensorBoard, and where everything came from."""

import json
import math
import platform
import sys
import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import __version__
from ..data.files import name_file_in_errors, write_atomic
from ..models.pretrained import Pretrained
from .config import TrainConfig, to_json

PACKAGES = ("torch", "torchvision", "kornia", "accelerate", "torchmetrics", "safetensors", "pillow")


class Tracker:
    """Scalars to ``metrics.jsonl`` and TensorBoard, pictures to TensorBoard.

    On a resumed run, whatever was written after the checkpoint's step is dropped first.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        if self.path.is_file():
            lines = self.path.read_text(errors="replace").splitlines(keepends=True)
            write_atomic(self.path, "".join(line for line in lines if _is_kept(line, step)))
        threading.excepthook = _hear
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line per logged step; what is no number is left out, as JSON has none such."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        with name_file_in_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """A picture (3,H,W) in [0,1]."""
        self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Flush everything."""
        self.writer.close()


def _hear(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread could not write: whoever gives it the next figure gets that error, and
    nobody needs its traceback.
    """
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _is_kept(line: str, step: int) -> bool:
    """Whether a line is whole, as a crash may leave the last one torn, and not after the step."""
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
    """Write what a run is made of: ``config.json``, ``manifest.json`` and ``run.json``.

    Args:
        config: of the run.
        manifest: of its ``photos`` and ``paintings``.
        pretrained: the encoder's weights.
        accelerator: where it runs.

    Raises:
        ValueError: the run was begun with other encoder weights.
    """
    run = config.out
    data = {name: part["sha256"] for name, part in manifest.items()}
    encoder = {
        "name": pretrained.name, "source": pretrained.source, "sha256": pretrained.sha256
    }  # fmt: skip
    precision = accelerator.mixed_precision
    before = _read_json(run / "run.json")
    if _of(before, "encoder").get("sha256", encoder["sha256"]) != encoder["sha256"]:
        raise ValueError(
            f"{run} was begun with other weights of {pretrained.name} than those found now "
            f"({pretrained.source}); choose another --out, or name the weights' folder again"
        )
    was = _of(before, "data") | {"precision": before.get("precision", precision)}
    for name, value in (data | {"precision": precision}).items():
        if was.get(name, value) != value:
            warnings.warn(
                f"{name}: not the same as when {run} was begun; it goes on with what is there, but "
                "not as an uninterrupted run would",
                stacklevel=2,
            )
    about = provenance(
        encoder=encoder, device=str(accelerator.device), processes=accelerator.num_processes,
        precision=precision, data=data,
    )  # fmt: skip
    write_atomic(run / "config.json", to_json(config))
    write_atomic(run / "manifest.json", json.dumps(manifest, indent=1))
    write_atomic(run / "run.json", json.dumps(about, indent=1))


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, machine and command of this run."""
    return {
        "underdrawing": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],  # not where it is installed
        **more,
    }


def _read_json(path: Path) -> dict[str, Any]:
    """An object of a former session; empty if there is none, or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of(content: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at a key; empty if there is none."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}
