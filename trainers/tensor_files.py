"""Safetensors files with a SHA-256 of their content, written atomically."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.files import write_atomic


class TensorFile(NamedTuple):
    """Content of a file: tensors by name, and string metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors of any device and memory layout, with metadata."""
    # Cloned, because safetensors refuses tensors that share memory.
    flat = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomic(path, save(flat, metadata | {"sha256": _digest(flat, metadata)}))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> TensorFile:
    """Read a file; its SHA-256 is verified if it has one (files of other programs have none).

    Raises:
        ValueError: the file is missing, no safetensors file, or does not match its SHA-256.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = metadata.pop("sha256", None)
    if expected is not None and expected != _digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: its content does not match its SHA-256")
    return TensorFile({name: tensor.to(device) for name, tensor in tensors.items()}, metadata)


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """Read the shapes of a file's tensors from its header, without loading any tensor.

    Raises:
        ValueError: the file is missing or no safetensors file.
    """
    with _open(path) as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    path.open("rb").close()  # raises OSError if unreadable, which safetensors reports as damage
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: not a complete safetensors file") from error


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of contiguous tensors, and metadata."""
    names = sorted(tensors)
    layout = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    digest = hashlib.sha256(json.dumps([layout, metadata], sort_keys=True).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
