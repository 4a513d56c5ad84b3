"""Tensors on disk: safetensors that carry a SHA-256 of their content, written whole or not."""

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
    """The content of a file: ``tensors`` by name, and the ``metadata`` it was written with."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors, wherever and however they lie in memory, and what is said of them."""
    # Cloned, because safetensors refuses tensors that share memory.
    flat = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomic(path, save(flat, metadata | {"sha256": _digest(flat, metadata)}))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> TensorFile:
    """Read a file whole; one that carries no SHA-256, somebody else's, is taken as it is.

    Raises:
        ValueError: there is no such file, it is no safetensors file, or its content is not what
            was written.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = metadata.pop("sha256", None)
    if expected is not None and expected != _digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: its content is not what was once written")
    return TensorFile({name: tensor.to(device) for name, tensor in tensors.items()}, metadata)


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """The shapes of a file's tensors by name, without reading a single one of them.

    Raises:
        ValueError: there is no such file, or it is no safetensors file.
    """
    with _opened(path) as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    path.open("rb").close()  # what the system refuses is no damage, and safetensors mixes them up
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: it is not a whole safetensors file") from error


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of contiguous tensors, and of the metadata."""
    names = sorted(tensors)
    layout = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    digest = hashlib.sha256(json.dumps([layout, metadata], sort_keys=True).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
