"""Frozen image encoders, tapped by the field's layer names (``relu1_1``, ``conv4_2``, …)."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers

Features = dict[str, Tensor]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The original VGG16 takes 0-255 RGB minus its mean; torchvision states both in units of [0, 1].
CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)


def _vgg_layer_names(cfg: str) -> list[str]:
    """Names of ``make_layers(cfgs[cfg])`` in order: conv1_1, relu1_1, conv1_2, …, pool1, …"""
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
    """The convolutional part of a VGG, cut after the deepest tap."""

    weight_prefix = ""

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


class _Stages(nn.Module):
    """A network cut by torchvision's feature extraction; ``nodes`` maps our names to its nodes."""

    weight_prefix = "graph."

    def __init__(
        self,
        network: nn.Module,
        nodes: dict[str, str],
        taps: Collection[str],
        extract: Callable[[nn.Module, dict[str, str]], nn.Module] = create_feature_extractor,
    ) -> None:
        super().__init__()
        self.graph = extract(network, {nodes[tap]: tap for tap in taps})

    def forward(self, x: Tensor, taps: Collection[str]) -> Features:
        features = self.graph(x)
        return {tap: features[tap] for tap in taps}


class _Spec(NamedTuple):
    layers: list[str]  # valid taps, shallow to deep
    build: Callable[[Collection[str]], _VGG | _Stages]  # cut after the deepest of these taps
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _vgg(cfg: str, mean: tuple[float, float, float], std: tuple[float, float, float]) -> _Spec:
    return _Spec(_vgg_layer_names(cfg), lambda taps: _VGG(cfg, taps), mean, std)


def _stages(network: Callable[[], nn.Module], nodes: dict[str, str]) -> _Spec:
    return _Spec(
        list(nodes), lambda taps: _Stages(network(), nodes, taps), IMAGENET_MEAN, IMAGENET_STD
    )


LITE0_NODES = (
    {"stem": "bn1"} | {f"stage{i}": f"blocks.{i - 1}" for i in range(1, 8)} | {"head": "bn2"}
)


def _lite0(taps: Collection[str]) -> _Stages:
    """EfficientNet-Lite0 is timm's; its extractor knows which of its layers fx cannot trace."""
    try:
        import timm
    except ImportError:
        raise ValueError(
            "efficientnet_lite0 is built by timm: run `pip install 'underdrawing[demo]'`"
        ) from None
    network = timm.create_model("tf_efficientnet_lite0")
    return _Stages(network, LITE0_NODES, taps, timm.models.create_feature_extractor)


def smoothed(features: Tensor) -> Tensor:
    """C·h·w · softmax(F / max|F|) over all of a picture's activations F, (B,C,h,w), mean one.

    Residual networks answer with few peaks, and a Gram matrix sees little else; a softmax over
    (C,h,w) raises the entropy (SWAG: Wang, Li & Vasconcelos, "Rethinking and Improving the
    Robustness of Image Style Transfer", CVPR 2021). We depart from the paper in two ways: mean one
    where theirs sums to one, and our temperature is the picture's largest magnitude where theirs
    is 1 (their code also tries 100), at which large peaks grow instead. With ours the ratio of any
    two positive activations shrinks, for x - log x falls on (0,1], whatever their scale.

    As in theirs most of the result is a constant: on VGG16 the content loss becomes about 40, the
    Gram loss 1000 times smaller. Half precision would round that away: it comes back as float32.
    """
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    largest = x.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    x = (x / largest).exp()
    return x / x.mean(dim=(1, 2, 3), keepdim=True)


#: To add an encoder: one line here, one in ``pretrained.WEIGHTS``.
ENCODERS: dict[str, _Spec] = {
    "vgg16": _vgg("D", CAFFE_MEAN, CAFFE_STD),  # the original (Caffe) release: style's classic
    "vgg16_imagenet": _vgg("D", IMAGENET_MEAN, IMAGENET_STD),  # torchvision's own: what LPIPS uses
    "vgg19": _vgg("E", IMAGENET_MEAN, IMAGENET_STD),
    "resnet50": _stages(
        tv.resnet50, {"stem": "relu"} | {f"layer{i}": f"layer{i}" for i in range(1, 5)}
    ),
    "efficientnet_b0": _stages(
        tv.efficientnet_b0,
        {"stem": "features.0"} | {f"stage{i}": f"features.{i}" for i in range(1, 8)},
    ),
    "efficientnet_lite0": _Spec(list(LITE0_NODES), _lite0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Encoder(nn.Module):
    """A frozen network that turns images into features.

    ``forward``: image (B,3,H,W) RGB in [0,1] -> ``{tap: (B,C,h,w)}``, for all taps or those asked
    for. Normalizes inside itself, runs no deeper than the deepest tap, has no trainable parameter
    and always stays in eval mode.

    Args:
        name: one of ``ENCODERS``.
        taps: layer names to return.
        state: the network's weights by torchvision's parameter names (see ``pretrained.py``);
            None leaves them random, which only tests want.
        smooth: smooth the activations that it returns (``smoothed``): for networks other than VGG.

    Raises:
        ValueError: unknown encoder or layer name (the message lists the valid ones), or weights
            of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        taps: Collection[str],
        state: dict[str, Tensor] | None = None,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
        spec = ENCODERS[name]
        taps = list(dict.fromkeys(taps))
        for tap in taps:
            if tap not in spec.layers:
                raise ValueError(
                    f"{name} has no layer {tap!r}; its layers are {', '.join(spec.layers)}"
                )
        self.name, self.taps, self.smooth = name, tuple(taps), smooth
        self.net = spec.build(taps)
        if state is not None:
            self._load(state)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, taps: Collection[str] | None = None) -> Features:
        x = (image - self.mean) / self.std
        x = x.to(next(self._convolutions()).weight.dtype)
        features = self.net(x, self.taps if taps is None else taps)
        return {k: smoothed(v) for k, v in features.items()} if self.smooth else features

    def in_bfloat16(self) -> "Encoder":
        """Convolutions in bfloat16, in place: autocast would round these frozen weights again in
        every pass. The image is still normalized in float32.
        """
        for layer in self._convolutions():
            layer.to(torch.bfloat16)
        return self

    def _convolutions(self) -> Iterator[nn.Conv2d]:
        return (layer for layer in self.net.modules() if isinstance(layer, nn.Conv2d))

    def channels(self) -> dict[str, int]:
        """Number of channels of each tap."""
        with torch.no_grad():
            probe = self(torch.zeros(1, 3, 32, 32, device=self.mean.device))
        return {tap: features.shape[1] for tap, features in probe.items()}

    def _load(self, state: dict[str, Tensor]) -> None:
        wanted = {key: key.removeprefix(self.net.weight_prefix) for key in self.net.state_dict()}
        try:
            self.net.load_state_dict({key: state[theirs] for key, theirs in wanted.items()})
        except (KeyError, RuntimeError):
            raise ValueError(f"these weights belong to another network than {self.name}") from None

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(False)  # frozen means frozen: also batch statistics
