import importlib.util
import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor
from underdrawing.data.images import square
from underdrawing.models import pretrained
from underdrawing.models.encoder import ENCODERS, Encoder
from underdrawing.models.pretrained import (
    PACKAGES,
    WEIGHTS,
    MissingWeightsError,
    load_pretrained,
    sha256_of,
)

NAME = "vgg19"
URLOPEN, DOWNLOAD = urllib.request.urlopen, torch.hub.download_url_to_file
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


@pytest.fixture
def any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose content is not what their name says pass."""
    monkeypatch.setattr(pretrained, "check_name", sha256_of)


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


@pytest.mark.usefixtures("any_content")
def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    named = tmp_path / "named"
    in_order = {
        f"folder: {FILENAME}": put(named, 1),
        f"cache: {FILENAME}": put(tmp_path / "ours" / "weights", 2),
        f"download: {FILENAME}": put(tmp_path / "hub" / "checkpoints", 3),
    }
    for number, (source, path) in enumerate(in_order.items(), start=1):
        found = load_pretrained(NAME, named)
        assert (found.name, found.source, number_of(found)) == (NAME, source, number)
        assert found.sha256 == sha256_of(path)
        path.unlink()


@pytest.mark.usefixtures("any_content")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_named_folder_may_hold_either_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = put(tmp_path / "named", 1, suffix)
    found = load_pretrained(NAME, tmp_path / "named")
    assert found.source == f"folder: {path.name}"
    assert number_of(found) == 1


def test_the_folder_can_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "environment", 1, ".safetensors")
    put(tmp_path / "argument", 2, ".safetensors")
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path / "environment"))
    assert number_of(load_pretrained(NAME)) == 1
    assert number_of(load_pretrained(NAME, tmp_path / "argument")) == 2


def test_a_named_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "ours" / "weights", 2)
    with pytest.raises(ValueError, match="absent does not exist"):
        load_pretrained(NAME, tmp_path / "absent")


@pytest.mark.usefixtures("any_content")
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


@pytest.mark.parametrize("honest", [True, False])
def test_a_download_is_kept_only_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: bool
) -> None:
    served = put(tmp_path / "server", 5)
    digits = sha256_of(served)[:8] if honest else "0" * 8
    served = served.rename(served.with_name(f"vgg19-{digits}.pth"))
    monkeypatch.setitem(WEIGHTS, NAME, SimpleNamespace(url=served.as_uri()))
    monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    if honest:
        assert number_of(load_pretrained(NAME)) == 5
    else:
        with pytest.raises(ValueError, match="its hash is another"):
            load_pretrained(NAME)
        assert not list((tmp_path / "hub" / "checkpoints").iterdir())


@pytest.mark.parametrize("name", WEIGHTS)
def test_without_any_source_one_sentence_names_the_ways(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_from_package", lambda *_: None)
    with pytest.raises(ValueError, match=f"no weights for {name}") as refusal:
        load_pretrained(name)
    words = str(refusal.value)
    assert Path(WEIGHTS[name].url).name in words
    assert "--weights-dir" in words
    assert "download" in words
    assert ("underdrawing[demo]" in words) == (name in PACKAGES)


@pytest.mark.usefixtures("any_content")
def test_a_file_that_carries_code_is_refused_unread(tmp_path: Path, bomb: Any) -> None:
    path = put(tmp_path / "named", 1)
    torch.save({"features.0.bias": bomb}, path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_pretrained(NAME, tmp_path / "named")
    assert not bomb.crater.exists()


@pytest.mark.usefixtures("any_content")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = put(tmp_path / "named", 1, suffix)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{path} cannot be read: it is damaged"):
        load_pretrained(NAME, tmp_path / "named")


@pytest.mark.usefixtures("any_content")
@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), "weights"])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, put(tmp_path / "named", 1))
    with pytest.raises(ValueError, match="is damaged"):
        load_pretrained(NAME, tmp_path / "named")


def test_a_pth_must_have_the_hash_that_its_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "named", 1)
    with pytest.raises(ValueError, match=f"not the file that its name says.*{sha256_of(path)[:8]}"):
        load_pretrained(NAME, tmp_path / "named")
    honest = path.with_name(f"vgg19-{sha256_of(path)[:8]}.pth")
    path.rename(honest)
    monkeypatch.setitem(WEIGHTS, NAME, SimpleNamespace(url=f"https://host/{honest.name}"))
    assert number_of(load_pretrained(NAME, tmp_path / "named")) == 1
    honest.write_bytes(honest.read_bytes() + b"0")
    with pytest.raises(ValueError, match="not the file that its name says"):
        load_pretrained(NAME, tmp_path / "named")


def needs(name: str) -> pytest.MarkDecorator:
    package = PACKAGES[name]
    here = all(importlib.util.find_spec(x) for x in (package.module, package.library))
    reason = f"{name}'s weights come with {package.requirement} and {package.library} (`demo`)"
    return pytest.mark.skipif(not here, reason=reason)


each_package = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in PACKAGES]
)


@needs("vgg16")
def test_vgg16_of_the_package_index_is_in_rgb() -> None:
    state = load_pretrained("vgg16").state
    bgr = state["features.0.weight"].flip(1)
    expected = torch.tensor([0.42947057, 0.373467, -0.06136011])
    torch.testing.assert_close(bgr.flatten()[:3], expected, rtol=0, atol=1e-7)
    assert Encoder("vgg16", ["pool5"], state).channels() == {"pool5": 512}


@needs("efficientnet_lite0")
@pytest.mark.parametrize(
    ("picture", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967}), ("rocket", {657})]
)
def test_lite0_of_the_package_index_knows_what_it_sees(picture: str, classes: set[int]) -> None:
    import timm

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(load_pretrained("efficientnet_lite0").state)
    image = square(Image.fromarray(getattr(data, picture)()), 224)
    spec = ENCODERS["efficientnet_lite0"]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.mean, spec.std))
    with torch.no_grad():
        best = network(((image - mean) / std)[None]).argmax()
    assert best.item() in classes


@needs("efficientnet_lite0")
def test_lite0_is_tapped_at_the_stages_that_timm_names() -> None:
    import timm

    state = load_pretrained("efficientnet_lite0").state
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(state)
    encoder = Encoder("efficientnet_lite0", ["stage1", "stage3", "stage5", "head"], state)
    image = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        last, stages = network.forward_intermediates(2 * image - 1, indices=[0, 2, 3])
        ours = encoder(image)
    for tap, theirs in zip(encoder.taps, [*stages, last], strict=True):
        torch.testing.assert_close(ours[tap], theirs)


@needs("efficientnet_lite0")
def test_lite0_is_normalized_as_its_weights_were_trained() -> None:
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0").pretrained_cfg
    spec = ENCODERS["efficientnet_lite0"]
    assert (spec.mean, spec.std) == (theirs["mean"], theirs["std"])


@each_package
def test_what_a_package_carries_is_kept(tmp_path: Path, name: str) -> None:
    first = load_pretrained(name)
    assert first.source.startswith(PACKAGES[name].requirement)
    (kept,) = (tmp_path / "ours" / "weights").iterdir()
    assert kept.suffix == ".safetensors"

    second = load_pretrained(name)
    assert second.source.startswith("cache: ")
    assert second.sha256 == first.sha256
    assert all(torch.equal(second.state[key], value) for key, value in first.state.items())


@each_package
def test_another_file_under_the_same_name_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = PACKAGES[name]._replace(sha256="0" * 64)
    monkeypatch.setitem(PACKAGES, name, changed)
    with pytest.raises(ValueError, match=f"pip install {re.escape(changed.requirement)}"):
        load_pretrained(name)


@each_package
def test_a_package_without_the_library_that_reads_it_is_no_source(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, name, PACKAGES[name]._replace(library="no_such_library"))
    with pytest.raises(MissingWeightsError):
        load_pretrained(name)


@needs("vgg16")
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be kept in .*file.*UNDERDRAWING_CACHE"):
        load_pretrained("vgg16")
