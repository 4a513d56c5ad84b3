"""What a run writes down: ``metrics.jsonl``, TensorBoard, and where everything came from."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import __version__
from ..data.files import write_atomic

PACKAGES = ("torch", "torchvision", "kornia", "accelerate", "torchmetrics", "safetensors", "pillow")


class Tracker:
    """Scalars to ``metrics.jsonl`` and TensorBoard, pictures to TensorBoard.

    On a resumed run, whatever was written after the checkpoint's step is dropped first.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            write_atomic(self.path, "".join(kept))
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line per logged step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """A picture (3,H,W) in [0,1]."""
        self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Flush everything."""
        self.writer.close()


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, machine and command of this run."""
    return {
        "underdrawing": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "command": sys.argv,
        **more,
    }
