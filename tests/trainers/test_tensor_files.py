from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from underdrawing.trainers.tensor_files import read_shapes, read_tensors, write_tensors

BASE = torch.arange(24, dtype=torch.float32).view(4, 6)
TENSORS = {
    "float": BASE,
    "shared memory": BASE,
    "transposed": BASE.t(),
    "expanded": torch.ones(1).expand(3),
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    **{str(dtype): BASE.to(dtype) for dtype in (torch.bfloat16, torch.half, torch.double)},
    "int64": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(BASE + 1),
    "nan": torch.tensor(float("nan")),
}


def write_small(path: Path) -> bytes:
    write_tensors(path, {"a": BASE[:1], "b": torch.tensor(7)}, step="3")
    return path.read_bytes()


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def test_round_trip_of_all_dtypes_and_layouts(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_tensors(path, TENSORS, step="3", note="größer")
    tensors, metadata = read_tensors(path)
    assert metadata == {"step": "3", "note": "größer"}
    assert tensors.keys() == TENSORS.keys()
    assert all(same(tensors[name], TENSORS[name]) for name in TENSORS)
    assert read_shapes(path) == {name: tensor.shape for name, tensor in TENSORS.items()}


def test_truncated_or_extended_file_is_rejected(tmp_path: Path) -> None:
    content, path = write_small(tmp_path / "file"), tmp_path / "file"
    for damaged in (*(content[:length] for length in range(len(content))), content + b"0"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="file is damaged: "):
            read_tensors(path)
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match=f"no such file: {absent}"):
            read_tensors(absent)


def test_flipped_bit_anywhere_is_detected(tmp_path: Path) -> None:
    content, path = write_small(tmp_path / "file"), tmp_path / "file"
    key = content.index(b'"sha256"')
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        if position not in range(key, key + 8):
            with pytest.raises(ValueError, match="file is damaged: "):
                read_tensors(path)
            continue
        with suppress(ValueError):  # the hash's own key: the hash is lost, the tensors are intact
            tensors, metadata = read_tensors(path)
            assert torch.equal(tensors["a"], BASE[:1])
            assert tensors["b"] == 7
            assert metadata["step"] == "3"


def test_file_without_hash_is_read(tmp_path: Path) -> None:
    save_file({"a": BASE}, tmp_path / "file", {"format": "pt"})
    tensors, metadata = read_tensors(tmp_path / "file")
    assert torch.equal(tensors["a"], BASE)
    assert metadata == {"format": "pt"}
