"""Frozen image encoders, tapped by the layer names of the literature (``relu1_1``, ``conv4_2``)."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers

Features = dict[str, Tensor]
RGB = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The original VGG16 takes 0-255 RGB minus its mean; torchvision states both in units of [0,1].
CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)


def _vgg_layer_names(cfg: str) -> list[str]:
    """Name the layers of ``make_layers(cfgs[cfg])``: conv1_1, relu1_1, conv1_2, …, pool1, …"""
    names, block, index = [], 1, 1
    for entry in cfgs[cfg]:
        if entry == "M":
            names.append(f"pool{block}")
            block, index = block + 1, 1
        else:
            names += [f"conv{block}_{index}", f"relu{block}_{index}"]
            index += 1
    return names


class _VGG(nn.Module):
    """The convolutional part of a VGG, cut after the deepest tap; stops early for fewer taps."""

    def __init__(self, cfg: str, taps: Collection[str]) -> None:
        super().__init__()
        names = _vgg_layer_names(cfg)
        depth = 1 + max(names.index(tap) for tap in taps)
        self.names = names[:depth]
        self.features = make_layers(cfgs[cfg])[:depth]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # torchvision's in-place ReLU overwrites the conv taps

    def forward(self, x: Tensor, taps: Collection[str]) -> Features:
        features: Features = {}
        for name, layer in zip(self.names, self.features, strict=True):
            x = layer(x)
            if name in taps:
                features[name] = x
                if len(features) == len(taps):
                    break
        return features


class _Spec(NamedTuple):
    layers: list[str]  # valid taps, shallow to deep
    build: Callable[[Collection[str]], nn.Module]  # cut after the deepest of these taps
    mean: RGB
    std: RGB


def _vgg(cfg: str, mean: RGB, std: RGB) -> _Spec:
    return _Spec(_vgg_layer_names(cfg), lambda taps: _VGG(cfg, taps), mean, std)


def _torchvision(network: Callable[[], nn.Module], nodes: dict[str, str]) -> _Spec:
    """Describe a torchvision network; ``nodes`` maps layer names to its graph nodes."""

    def build(taps: Collection[str]) -> nn.Module:
        return create_feature_extractor(network(), {nodes[tap]: tap for tap in taps})

    return _Spec(list(nodes), build, IMAGENET_MEAN, IMAGENET_STD)


LITE0_NODES = (
    {"stem": "bn1"} | {f"stage{i}": f"blocks.{i - 1}" for i in range(1, 8)} | {"head": "bn2"}
)


def _lite0(taps: Collection[str]) -> nn.Module:
    """Build timm's EfficientNet-Lite0; timm's extractor knows which layers fx cannot trace."""
    try:
        import timm
    except ImportError:
        raise ValueError(
            "encoder efficientnet_lite0 needs timm: run `pip install 'underdrawing[demo]'`"
        ) from None
    network = timm.create_model("tf_efficientnet_lite0")
    return timm.models.create_feature_extractor(network, {LITE0_NODES[tap]: tap for tap in taps})


#: To add an encoder, add one line here and one in ``pretrained.WEIGHTS``.
ENCODERS: dict[str, _Spec] = {
    "vgg16": _vgg("D", CAFFE_MEAN, CAFFE_STD),  # original (Caffe) weights, standard for style
    "vgg16_imagenet": _vgg("D", IMAGENET_MEAN, IMAGENET_STD),  # torchvision's weights, as in LPIPS
    "vgg19": _vgg("E", IMAGENET_MEAN, IMAGENET_STD),
    "resnet50": _torchvision(
        tv.resnet50, {"stem": "relu"} | {f"layer{i}": f"layer{i}" for i in range(1, 5)}
    ),
    "efficientnet_b0": _torchvision(
        tv.efficientnet_b0,
        {"stem": "features.0"} | {f"stage{i}": f"features.{i}" for i in range(1, 8)},
    ),
    "efficientnet_lite0": _Spec(list(LITE0_NODES), _lite0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Encoder(nn.Module):
    """A frozen network that maps images to features.

    It normalizes its input, runs no deeper than needed, has no trainable parameter and always
    stays in eval mode.

    Args:
        name: one of ``ENCODERS``.
        taps: names of the layers to return.
        state: weights by torchvision's (timm's) parameter names, see ``pretrained.py``; None
            keeps the random initialization, for tests.

    Raises:
        ValueError: unknown encoder or layer, or weights of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, taps: Collection[str], state: dict[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
        spec = ENCODERS[name]
        self.name, self.taps = name, tuple(dict.fromkeys(taps))
        for tap in self.taps:
            if tap not in spec.layers:
                raise ValueError(
                    f"{name} has no layer {tap!r}; its layers are {', '.join(spec.layers)}"
                )
        self.net = spec.build(self.taps)
        if state is not None:
            try:
                self.net.load_state_dict({key: state[key] for key in self.net.state_dict()})
            except (KeyError, RuntimeError):
                raise ValueError(f"these weights belong to another network than {name}") from None
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, taps: Collection[str] | None = None) -> Features:
        """Return ``{tap: (B,C,h,w)}`` of images (B,3,H,W) RGB in [0,1], for all or some taps."""
        x = (image - self.mean) / self.std
        x = x.to(next(self._convolutions()).weight.dtype)
        taps = self.taps if taps is None else taps
        if isinstance(self.net, _VGG):
            return self.net(x, taps)
        features = self.net(x)
        return {tap: features[tap] for tap in taps}

    def in_bfloat16(self) -> "Encoder":
        """Convert the convolutions to bfloat16 in place and return the encoder.

        Autocast would round the frozen weights again in every pass. The image is still normalized
        in float32.
        """
        for layer in self._convolutions():
            layer.to(torch.bfloat16)
        return self

    def channels(self) -> dict[str, int]:
        """Return the number of channels of each tap."""
        with torch.no_grad():
            features = self(torch.zeros(1, 3, 32, 32, device=self.mean.device))
        return {tap: x.shape[1] for tap, x in features.items()}

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(False)  # stay frozen, batch statistics included

    def _convolutions(self) -> Iterator[nn.Conv2d]:
        return (layer for layer in self.net.modules() if isinstance(layer, nn.Conv2d))
