"""Underdrawing: adversarial style transfer that keeps content where content matters.

The public names are imported on first use, so that importing the package is instant and
tools that meet this folder under another name (a checkout called ``underdrawing-main``) do
not run any of it.
"""

__version__ = "0.2.0"

_PUBLIC = {
    "Encoder": "models.encoder",
    "Generator": "models.generator",
    "Stylizer": "trainers.stylizer",
    "PatchGAN": "models.discriminator",
    "TrainConfig": "trainers.config",
    "train": "trainers.trainer",
    "load": "trainers.stylizer",
    "load_model": "trainers.model_files",
}

__all__ = [
    "Encoder",
    "Generator",
    "Stylizer",
    "PatchGAN",
    "TrainConfig",
    "load",
    "load_model",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module 'underdrawing' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
