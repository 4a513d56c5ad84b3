import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from underdrawing.data.images import square
from underdrawing.experiments.analysis.tables import make_columns
from underdrawing.experiments.scoring.networks import make_networks
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, SecondNetwork
from underdrawing.metrics.style_gap import LITE0_ACTIVATION_STD
from underdrawing.models import pretrained

CPU = torch.device("cpu")
PACKAGE = pretrained.PACKAGES["efficientnet_lite0"]
needs_lite0 = pytest.mark.skipif(
    not all(importlib.util.find_spec(x) for x in (PACKAGE.module, PACKAGE.library)),
    reason=f"EfficientNet-Lite0 comes with {PACKAGE.requirement} and timm (`demo`)",
)
pytestmark = pytest.mark.usefixtures("offline")


def test_without_timm_there_is_no_independent_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    assert make_networks(CPU).independent is None


def test_without_its_weights_there_is_no_independent_judge(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path))  # where none were kept
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(only_vgg16(cache, tmp_path)))
    monkeypatch.delitem(pretrained.PACKAGES, "efficientnet_lite0")
    assert make_networks(CPU).independent is None


def only_vgg16(cache: Path, folder: Path) -> Path:
    (kept,) = (cache / "weights").glob("vgg16*")
    (folder / kept.name).symlink_to(kept)
    return folder


@pytest.fixture
def lite0() -> SecondNetwork:
    extractor = make_networks(CPU).independent
    assert extractor is not None
    return extractor


def test_the_table_has_columns_for_it() -> None:
    extractor = FeatureExtractor(
        lambda images, layers: {}, [], lambda features: torch.empty(0), ("toy", "")
    )
    alone = MetricNetworks(extractor, extractor, extractor, "LPIPS", "FID", "KID")
    both = replace(alone, independent=SecondNetwork("second net", extractor, extractor))
    added = make_columns(both)[len(make_columns(alone)) :]
    assert [(column.key, column.title) for column in added] == [
        ("kernel_independent", "KID (second net)"),
        ("style_gap_independent", "style gap closed (second net)"),
    ]


def photos(size: int) -> Tensor:
    pictures = (data.chelsea(), data.coffee(), data.astronaut(), data.rocket())
    return torch.stack([square(Image.fromarray(x), size) for x in pictures])


@needs_lite0
def test_the_independent_judge_says_which_weights_it_has(lite0: SecondNetwork) -> None:
    sha256 = pretrained.load_pretrained("efficientnet_lite0").sha256
    assert lite0.name == "EfficientNet-Lite0"
    assert lite0.style.words[1] == lite0.pooled.words[1] == sha256


@needs_lite0
@torch.no_grad()
def test_its_scales_are_those_of_its_activations_on_photos(lite0: SecondNetwork) -> None:
    features = lite0.style.network(photos(256), lite0.style.layers)
    for layer, k in LITE0_ACTIVATION_STD.items():
        assert features[layer].std().item() == pytest.approx(k, rel=0.25)


@needs_lite0
@pytest.mark.parametrize("size", [64, 128])
@torch.no_grad()
def test_its_pooled_features_have_one_scale_whatever_the_resolution(
    size: int, lite0: SecondNetwork
) -> None:
    """Those of 64 px as they are would be five times as large."""
    pooled = lite0.pooled(photos(size))
    assert pooled.shape == (4, 1280)
    assert pooled.square().mean().sqrt().item() == pytest.approx(1, rel=0.25)
