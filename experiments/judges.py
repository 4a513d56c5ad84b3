"""Which networks judge on this machine: the standard ones, or stand-ins named as such."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..metrics.judges import Judges
from ..metrics.perceptual import LPIPS_LAYERS, lpips_heads
from ..metrics.style_gap import ACTIVATION_STD
from ..models.encoder import Encoder
from ..models.pretrained import Pretrained, cache_dir, load_pretrained, sha256_of

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it
STAND_IN_LAYER = "relu4_3"
STAND_IN_SCALE = 25.25  # rms of its spatial means over 40 photos and 40 paintings, 256x256


def make_judges(device: torch.device, weights_dir: Path | None = None) -> Judges:
    """Judges for this machine; see ``Judges``."""
    original = load_pretrained("vgg16", weights_dir)
    vgg = Encoder("vgg16", [*ACTIVATION_STD, *LPIPS_LAYERS], original.state).to(device)
    words = ("VGG16, original weights", original.sha256)
    standard = _standard_lpips(weights_dir)
    if standard is None:
        perceptual, lpips_words, lpips_name = vgg, words, "LPIPS heads on original VGG16"
    else:
        perceptual = Encoder("vgg16_imagenet", LPIPS_LAYERS, standard.state).to(device)
        lpips_words, lpips_name = ("VGG16, torchvision ImageNet", standard.sha256), "LPIPS"
    inception = _inception(device, weights_dir)
    if inception is None:
        pooled: Callable[[Tensor], Tensor] = lambda x: (  # noqa: E731
            vgg(x, [STAND_IN_LAYER])[STAND_IN_LAYER].mean(dim=(2, 3)) / STAND_IN_SCALE
        )
        pooled_words = (f"VGG16 {STAND_IN_LAYER} means, original weights", original.sha256)
        names = (f"Fréchet (VGG16 {STAND_IN_LAYER})", f"KID (VGG16 {STAND_IN_LAYER})")
    else:
        pooled, digest = inception
        pooled_words, names = ("InceptionV3, 2048 features", digest), ("FID", "KID")
    return Judges(
        style=lambda x: vgg(x, list(ACTIVATION_STD)),
        perceptual=lambda x: perceptual(x, LPIPS_LAYERS),
        heads=[head.to(device) for head in lpips_heads()],
        pooled=pooled,
        style_network=words,
        perceptual_network=lpips_words,
        pooled_network=pooled_words,
        lpips_name=lpips_name,
        frechet_name=names[0],
        kernel_name=names[1],
    )


def _standard_lpips(weights_dir: Path | None) -> Pretrained | None:
    try:
        return load_pretrained("vgg16_imagenet", weights_dir)
    except ValueError:
        return None


def _inception(
    device: torch.device, weights_dir: Path | None
) -> tuple[Callable[[Tensor], Tensor], str] | None:
    """FID's InceptionV3 through torch-fidelity, if both it and its weights file are here."""
    folders = [weights_dir, os.environ.get("UNDERDRAWING_WEIGHTS"), cache_dir() / "weights"]
    files = [Path(folder) / INCEPTION_FILE for folder in folders if folder]
    path = next((file for file in files if file.is_file()), None)
    if path is None or importlib.util.find_spec("torch_fidelity") is None:
        return None
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).to(device)
    return lambda x: network((x * 255).round().byte())[0].float(), sha256_of(path)
