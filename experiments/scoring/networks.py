"""Which networks judge on this machine: the standard ones, or stand-ins named as such."""

import importlib.util
import os
from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...metrics.perceptual import LPIPS_LAYERS, lpips_heads, lpips_vector
from ...metrics.scores import FeatureExtractor, MetricNetworks, SecondNetwork
from ...metrics.style_gap import ACTIVATION_STD, LITE0_ACTIVATION_STD, style_vector
from ...models.encoder import Encoder
from ...models.pretrained import MissingWeightsError, cache_dir, check_name, load_pretrained

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it
STAND_IN_LAYER = "relu4_3"
STAND_IN_SCALE = 25.25  # rms of its spatial means over 40 photos and 40 paintings, 256x256
# EfficientNet-Lite0 was trained at this size; on 128 px its last features are twice as large, and
# a kernel distance ten times.
LITE0_SIZE = 224
LITE0_SCALE = 0.4326  # rms of their spatial means over such pictures, at that size


def make_networks(device: torch.device, weights_dir: Path | None = None) -> MetricNetworks:
    """Judges for this machine; see ``Judges``. Stand-ins share one VGG16."""
    original = load_pretrained("vgg16", weights_dir)
    vgg = Encoder("vgg16", [*ACTIVATION_STD, *LPIPS_LAYERS], original.state).to(device)
    words = ("VGG16, original weights", original.sha256)
    imagenet = _imagenet_vgg(device, weights_dir)
    inception = _inception(device, weights_dir)
    heads = [head.to(device) for head in lpips_heads()]
    network, lpips_words = imagenet or (vgg, words)
    return MetricNetworks(
        style=FeatureExtractor(vgg, ACTIVATION_STD, style_vector, words),
        perceptual=FeatureExtractor(
            network, LPIPS_LAYERS, lambda x: lpips_vector(x, heads), lpips_words
        ),
        pooled=inception or _pooled_stand_in(vgg, original.sha256),
        lpips_name="LPIPS" if imagenet else "LPIPS heads on original VGG16",
        frechet_name="FID" if inception else f"Fréchet (VGG16 {STAND_IN_LAYER})",
        kernel_name="KID" if inception else f"KID (VGG16 {STAND_IN_LAYER})",
        independent=_lite0(device, weights_dir),
    )


def _imagenet_vgg(
    device: torch.device, weights_dir: Path | None
) -> tuple[Encoder, tuple[str, str]] | None:
    """The network LPIPS is defined on, if its weights are to be had."""
    try:
        weights = load_pretrained("vgg16_imagenet", weights_dir)
    except MissingWeightsError:
        return None
    network = Encoder("vgg16_imagenet", LPIPS_LAYERS, weights.state).to(device)
    return network, ("VGG16, torchvision ImageNet", weights.sha256)


def _pooled_stand_in(vgg: Encoder, sha256: str) -> FeatureExtractor:
    return FeatureExtractor(
        vgg,
        [STAND_IN_LAYER],
        lambda features: features[STAND_IN_LAYER].mean(dim=(2, 3)) / STAND_IN_SCALE,
        (f"VGG16 {STAND_IN_LAYER} means, original weights", sha256),
    )


def _lite0(device: torch.device, weights_dir: Path | None) -> SecondNetwork | None:
    """EfficientNet-Lite0, if both its weights and timm, which builds it, are here."""
    if importlib.util.find_spec("timm") is None:
        return None
    try:
        weights = load_pretrained("efficientnet_lite0", weights_dir)
    except MissingWeightsError:
        return None
    layers, last = LITE0_ACTIVATION_STD, "head"
    network = Encoder("efficientnet_lite0", [*layers, last], weights.state).to(device)

    def at_its_size(images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        resized = F.interpolate(images, (LITE0_SIZE, LITE0_SIZE), mode="bicubic", antialias=True)
        return network(resized.clamp(0, 1), taps)

    return SecondNetwork(
        "EfficientNet-Lite0",
        FeatureExtractor(
            network,
            layers,
            lambda x: style_vector(x, layers),
            (f"EfficientNet-Lite0 {', '.join(layers)}", weights.sha256),
        ),
        FeatureExtractor(
            at_its_size,
            [last],
            lambda x: x[last].mean(dim=(2, 3)) / LITE0_SCALE,
            (f"EfficientNet-Lite0, 1280 features at {LITE0_SIZE} px", weights.sha256),
        ),
    )


def _inception(device: torch.device, weights_dir: Path | None) -> FeatureExtractor | None:
    """FID's InceptionV3 through torch-fidelity, if both it and its weights file are here."""
    folders = [weights_dir, os.environ.get("UNDERDRAWING_WEIGHTS"), cache_dir() / "weights"]
    files = [Path(folder) / INCEPTION_FILE for folder in folders if folder]
    path = next((file for file in files if file.is_file()), None)
    if path is None or importlib.util.find_spec("torch_fidelity") is None:
        return None
    sha256 = check_name(path)  # before torch-fidelity unpickles it
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).to(device)
    return FeatureExtractor(
        lambda images, layers: {"2048": network((images * 255).round().byte())[0].float()},
        ["2048"],
        lambda features: features["2048"],
        ("InceptionV3, 2048 features", sha256),
    )
