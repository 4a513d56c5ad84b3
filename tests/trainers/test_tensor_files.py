"""Tensors on disk: what is read is what was written, or the file is refused in one sentence."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from underdrawing.trainers.tensor_files import read_shapes, read_tensors, write_tensors

BASE = torch.arange(24, dtype=torch.float32).view(4, 6)
TENSORS = {
    "float": BASE,
    "the same memory": BASE,
    "transposed": BASE.t(),
    "a part": BASE[1, ::2],
    "expanded": torch.ones(1).expand(3),
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "bfloat16": BASE.bfloat16(),
    "half": BASE.half(),
    "double": BASE.double(),
    "int64": torch.tensor([2**62, -1]),
    "uint8": torch.arange(3, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(BASE + 1),
    "not a number": torch.tensor(float("nan")),
}


def small(path: Path) -> bytes:
    """A small file with everything in it; its bytes."""
    write_tensors(path, {"a": BASE[:1], "b": torch.tensor(7)}, step="3")
    return path.read_bytes()


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def test_tensors_come_back_as_they_were_however_they_lay(tmp_path: Path) -> None:
    write_tensors(tmp_path / "new" / "file", TENSORS, step="3", note="größer")
    tensors, metadata = read_tensors(tmp_path / "new" / "file")
    assert metadata == {"step": "3", "note": "größer"}
    assert tensors.keys() == TENSORS.keys()
    assert all(same(tensors[name], TENSORS[name]) for name in TENSORS)
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    assert read_shapes(tmp_path / "new" / "file") == shapes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_written_and_read_back_there(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"a": BASE.cuda()})
    back = read_tensors(tmp_path / "file", "cuda").tensors["a"]
    assert back.is_cuda
    assert torch.equal(back.cpu(), BASE)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = small(tmp_path / "file")
    for length in range(len(content)):
        (tmp_path / "file").write_bytes(content[:length])
        with pytest.raises(ValueError, match="file is damaged: "):
            read_tensors(tmp_path / "file")


def test_a_bit_that_is_flipped_in_any_byte_is_noticed(tmp_path: Path) -> None:
    content = small(tmp_path / "file")
    stamp = range(content.index(b'"sha256"'), content.index(b'"sha256"') + 8)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (tmp_path / "file").write_bytes(flipped)
        try:
            tensors, metadata = read_tensors(tmp_path / "file")
        except ValueError as refusal:
            assert "file is damaged: " in str(refusal)  # noqa: PT017
        else:  # the stamp's own name was hit: the content is untouched
            assert position in stamp
            assert torch.equal(tensors["a"], BASE[:1])
            assert tensors["b"] == 7
            assert metadata["step"] == "3"


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(small(tmp_path / "file") + b"0")
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, b"no tensors at all"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for read in (read_tensors, read_shapes):
        with pytest.raises(ValueError, match="file is damaged: it is not a whole safetensors"):
            read(tmp_path / "file")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match=f"there is no file {path}"):
            read_tensors(path)


def test_somebody_elses_file_is_read_as_it_is(tmp_path: Path) -> None:
    save_file({"a": BASE}, tmp_path / "file", {"format": "pt"})
    tensors, metadata = read_tensors(tmp_path / "file")
    assert torch.equal(tensors["a"], BASE)
    assert metadata == {"format": "pt"}


def _write_for_ever(path: Path) -> None:
    for number in range(10**9):
        write_tensors(path, {"number": torch.full((50_000,), number)}, number=str(number))


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for delay in (0.0, 0.005, 0.02):
        context = multiprocessing.get_context("fork")
        writer = context.Process(target=_write_for_ever, args=(path,), daemon=True)
        writer.start()
        while not path.is_file():
            time.sleep(0.001)
        time.sleep(delay)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        tensors, metadata = read_tensors(path)
        assert (tensors["number"] == int(metadata["number"])).all()
        path.unlink()
