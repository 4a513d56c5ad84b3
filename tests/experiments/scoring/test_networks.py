import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from underdrawing.data.images import square
from underdrawing.experiments.scoring.networks import make_networks
from underdrawing.metrics.scores import SecondNetwork
from underdrawing.metrics.style_gap import LITE0_ACTIVATION_STD
from underdrawing.models import pretrained

CPU = torch.device("cpu")
PACKAGE = pretrained.PACKAGES["efficientnet_lite0"]
needs_lite0 = pytest.mark.skipif(
    not all(importlib.util.find_spec(x) for x in (PACKAGE.module, PACKAGE.library)),
    reason=f"EfficientNet-Lite0 needs {PACKAGE.requirement} and timm (extra `demo`)",
)
pytestmark = pytest.mark.usefixtures("offline")


def test_original_vgg16_substitutes_for_missing_networks_and_is_named(
    single_network: None,
) -> None:
    networks = make_networks(CPU)
    assert networks.lpips_name == "LPIPS heads on original VGG16"
    assert networks.frechet_name == "Fréchet (VGG16 relu4_3)"
    assert networks.kernel_name == "KID (VGG16 relu4_3)"
    assert networks.independent is None
    sha256 = pretrained.load_pretrained("vgg16").sha256
    assert {extractor.weights_sha256 for extractor in networks.all} == {sha256}
    assert all("VGG16" in extractor.name for extractor in networks.all)


def test_no_second_network_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    assert make_networks(CPU).independent is None


def test_no_second_network_without_its_weights(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (vgg16,) = (cache / "weights").glob("vgg16*")
    (tmp_path / vgg16.name).symlink_to(vgg16)
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path))
    monkeypatch.delitem(pretrained.PACKAGES, "efficientnet_lite0")
    assert make_networks(CPU).independent is None


@pytest.fixture
def lite0() -> SecondNetwork:
    second = make_networks(CPU).independent
    assert second is not None
    return second


def photos(size: int) -> Tensor:
    images = (data.chelsea(), data.coffee(), data.astronaut(), data.rocket())
    return torch.stack([square(Image.fromarray(x), size) for x in images])


@needs_lite0
@torch.no_grad()
def test_lite0_features_on_photos_have_the_documented_scales(lite0: SecondNetwork) -> None:
    sha256 = pretrained.load_pretrained("efficientnet_lite0").sha256
    assert lite0.style.weights_sha256 == lite0.pooled.weights_sha256 == sha256
    features = lite0.style.network(photos(256), lite0.style.layers)
    for layer, k in LITE0_ACTIVATION_STD.items():
        assert features[layer].std().item() == pytest.approx(k, rel=0.25)
    for size in (64, 128):  # pooled features are computed at 224 px; at 64 px: five times as large
        pooled = lite0.pooled(photos(size))
        assert pooled.shape == (4, 1280)
        assert pooled.square().mean().sqrt().item() == pytest.approx(1, rel=0.25)
