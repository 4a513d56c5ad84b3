"""Underdrawing: adversarial style transfer with an attention-weighted content loss.

Public names are imported on first use, so that ``import underdrawing`` does not import torch.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # torch reads it when it is imported

if TYPE_CHECKING:  # the same names as below, for type checkers
    from .models.discriminator import PatchGAN
    from .models.encoder import Encoder
    from .models.generator import Generator
    from .trainers.config import TrainConfig
    from .trainers.model_files import load_model
    from .trainers.stylizer import Stylizer, load
    from .trainers.trainer import train

__version__ = "0.2.0"

_PUBLIC = {
    "Encoder": "models.encoder",
    "Generator": "models.generator",
    "PatchGAN": "models.discriminator",
    "Stylizer": "trainers.stylizer",
    "TrainConfig": "trainers.config",
    "load": "trainers.stylizer",
    "load_model": "trainers.model_files",
    "train": "trainers.trainer",
}

__all__ = [
    "Encoder", "Generator", "PatchGAN", "Stylizer", "TrainConfig", "load", "load_model", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module 'underdrawing' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
