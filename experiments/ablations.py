"""Axes of ``underdrawing ablate``: what can be varied, in settings on top of a recipe.

An axis is data: each of its values is a few settings, named as on the command line of ``train``. To
add one, write it into ``AXES``. Exactly one value changes nothing: the baseline, which all axes of
the same recipe share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from types import MappingProxyType
from typing import Any, NamedTuple

from ..trainers.config import TrainConfig
from .recipes import RECIPES

Settings = Mapping[str, Any]  # "part.field" -> value
NOTHING: Settings = MappingProxyType({})


class Ablation(NamedTuple):
    """What is varied, everything else being equal."""

    asks: str  # in one sentence
    values: Mapping[str, Settings]  # by title, in the order of the table
    discriminator: bool = False  # from recipe attention-adversarial; else from attention
    shares: bool = False  # terms weighed by gradient shares: values put losses on other scales
    given: Settings = NOTHING  # what else all values have


class Variants(NamedTuple):
    """The rows of one table."""

    recipes: dict[str, TrainConfig]  # by title
    refused: dict[str, str]  # titles of combinations that contradict themselves, and why
    baseline: str  # the title that the others are compared with


def variants(axes: Sequence[str]) -> Variants:
    """All values of an axis, or all combinations of several, on their common recipe.

    Raises:
        ValueError: no such axis, or two that set the same thing.
    """
    check_axes(axes)
    for one, other in combinations(axes, 2):
        if both := _settings(one) & _settings(other):
            raise ValueError(
                f"axes {one} and {other} both set {', '.join(sorted(both))}: they make no grid"
            )
    chosen = [ABLATIONS[name] for name in axes]
    base, recipes, refused = _base(chosen), dict[str, TrainConfig](), dict[str, str]()
    for combination in product(*(axis.values.items() for axis in chosen)):
        title = " · ".join(name for name, _ in combination)
        try:
            recipes[title] = with_settings(base, *(settings for _, settings in combination))
        except ValueError as error:
            refused[title] = str(error)
    (baseline,) = (title for title, recipe in recipes.items() if recipe == base)
    return Variants(recipes, refused, baseline)


def check_axes(names: Sequence[str]) -> None:
    """Refuse names that are none, and none at all; lists those there are.

    Raises:
        ValueError: see above.
    """
    unknown = ", ".join(name for name in names if name not in ABLATIONS)
    if unknown or not names:
        wrong = f"there is no axis {unknown}" if unknown else "name at least one axis"
        raise ValueError(f"{wrong}; choose of {', '.join(ABLATIONS)}")


def with_settings(config: TrainConfig, *several: Settings) -> TrainConfig:
    """A configuration with some settings changed, the later ones last.

    Raises:
        ValueError: they contradict each other.
    """
    for settings in several:
        for name, value in settings.items():
            part, _, field = name.rpartition(".")
            if part:
                value = replace(getattr(config, part), **{field: value})
            config = replace(config, **{part or field: value})
    return config


def _settings(axis: str) -> set[str]:
    return {name for settings in ABLATIONS[axis].values.values() for name in settings}


def _base(axes: Sequence[Ablation]) -> TrainConfig:
    """The common recipe: with a discriminator, or gradient shares, if one of the axes asks so."""
    shares = any(axis.shares for axis in axes)
    config = RECIPES["gradient-balance" if shares else "attention-adversarial"]()
    if not any(axis.discriminator for axis in axes):
        config = with_settings(config, {"recipe": "attention", "balance.adversarial": 0.0})
    return with_settings(config, *(axis.given for axis in axes))


def _each(name: str, values: Sequence[Any]) -> dict[str, Settings]:
    """One setting, its values as titles."""
    return {f"{value:g}" if isinstance(value, float) else str(value): {name: value}
            for value in values}  # fmt: skip


def _switch(name: str) -> dict[str, Settings]:
    return {"off": {name: False}, "on": {name: True}}


def _layers(*weights: tuple[str, float]) -> Settings:
    return {"content.layers": weights}


def _encoder(
    name: str, content: Sequence[str], style: Sequence[str], smooth: bool = False
) -> Settings:
    """A network with the layers whose strides are those of VGG16's: content 4, 8, 16 (the paper's
    three), style 1, 2, 4, 8 as far as there are any.
    """
    return {
        "encoder.name": name, "encoder.smooth": smooth, "style.layers": tuple(style),
        "content.layers": tuple(zip(content, (0.2, 0.5, 0.3), strict=True)),
    }  # fmt: skip


_VGG = ("conv3_2", "conv4_2", "conv5_2"), ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
_RESNET = ("layer1", "layer2", "layer3"), ("stem", "layer1", "layer2")
_EFFICIENTNET = ("stage2", "stage3", "stage5"), ("stage1", "stage2", "stage3")

#: Name on the command line -> axis.
ABLATIONS: dict[str, Ablation] = {
    "objective": Ablation(
        "How should the map of where content counts come about; does it matter where it points?",
        _each(
            "attention.objective",
            ("uniform", "learned", "oracle", "shuffled", "saliency", "joint", "gate"),
        ),
    ),
    "target": Ablation(
        "What should the learned map be aimed at?",
        _each(
            "attention.target",
            ("structural", "robust_structural", "robust", "robust_local", "calibrated"),
        ),
    ),
    "content-weight": Ablation(
        "Does a mere weight win anything at matched style? It should but move along the curve.",
        _each("balance.content", (0.5, 1.0, 2.0)),
    ),
    "clip": Ablation(
        "How far may the structural target rise above its mean?",
        _each("attention.clip", (2.0, 5.0, 10.0)),
    ),
    "budget": Ablation(
        "How far from uniform, in nats, may a map go that is aimed at robust_structural?",
        _each("attention.budget", (0.1, 0.5, 2.0)),
        given={"attention.target": "robust_structural"},
    ),
    "decoder": Ablation(
        "Does it help to let the decoder keep more of the photo where the map is high?",
        _switch("attention.decoder"),
    ),
    "gate": Ablation(
        "What helps where the decoder mixes the photo's own features in: that a map says where, "
        "that the mixing teaches the map, or the way round the paint alone (an even map)?",
        {
            "off": {},
            "learned map": {"attention.decoder": True},
            "gate": {"attention.objective": "gate"},
            "even map": {"attention.objective": "uniform", "attention.decoder": True},
        },
    ),
    "attended-strength": Ablation(
        "Does it help to let the strength follow the map, as s^A?",
        _switch("attention.strength"),
    ),
    "channels": Ablation(
        "Does weighing the channels of the content features help, beside the places?",
        _switch("attention.channels"),
    ),
    "layers": Ablation(
        "Which layers should hold the content, and with which weights?",
        {
            "paper’s three": _layers(("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3)),
            "three, equal λ": _layers(*((f"conv{i}_2", 1 / 3) for i in (3, 4, 5))),
            "conv3_2 alone": _layers(("conv3_2", 1.0)),
            "conv4_2 alone": _layers(("conv4_2", 1.0)),
            "conv5_2 alone": _layers(("conv5_2", 1.0)),
        },
    ),
    "normalization": Ablation(
        "What should be divided out of the content features? They differ in scale, so in every "
        "row each term pulls with the same share of the gradient.",
        _each("content.normalization", ("none", "l2", "instance", "batch")),
        shares=True,
    ),
    "encoder": Ablation(
        "Which network's features should define content and style? Layers are matched by stride "
        "(content 4, 8, 16; style 1, 2, 4, 8, of which only VGG has 1) and losses differ in scale, "
        "so in every row, from its own start on, each term pulls with the same share of the "
        "gradient. No judge is neutral: a row may please the one that is its own network.",
        {
            "vgg16": _encoder("vgg16", *_VGG),
            "vgg16_imagenet": _encoder("vgg16_imagenet", *_VGG),
            "vgg19": _encoder("vgg19", *_VGG),
            "resnet50": _encoder("resnet50", *_RESNET),
            "resnet50, smooth": _encoder("resnet50", *_RESNET, smooth=True),
            "efficientnet_b0": _encoder("efficientnet_b0", *_EFFICIENTNET),
            "efficientnet_lite0": _encoder("efficientnet_lite0", *_EFFICIENTNET),
            "efficientnet_lite0, smooth": _encoder(
                "efficientnet_lite0", *_EFFICIENTNET, smooth=True
            ),
        },
        shares=True,
    ),
    "base": Ablation(
        "Does it help to paint on the photo in the painting's colors, not on the photo itself?",
        _each("generator.base", ("color", "photo")),
    ),
    "strength": Ablation(
        "Does a model of all strengths match, at one of them, a model trained at that one alone, "
        "from its start on? In the tables such a model is also asked for strengths that it has "
        "never met; check.md compares it at its own.",
        {
            "all strengths": {"strength": 1.0},
            "1 alone": {"strength": 1.0, "full_strength_prob": 1.0},
            "0.5 alone": {"strength": 0.5, "full_strength_prob": 1.0},
        },
    ),
    "ema": Ablation(
        "Is the average of the generator's weights better than the last ones?",
        _each("optimizer.ema", (0.0, 0.995)),
    ),
    "balance": Ablation(
        "Should the terms be weighed by fixed weights, the paper's shift from content to style, or "
        "gradient shares of 0.3 : 0.6 : 0.1 (then from the start on)?",
        {
            "fixed": {"balance.kind": "fixed"},
            "schedule": {"balance.kind": "schedule"},
            "gradient": {
                "balance.kind": "gradient", "balance.content": 0.3, "balance.style": 0.6,
                "balance.adversarial": 0.1,
            },
        },
        discriminator=True,
    ),
    "paper-weights": Ablation(
        "What do the paper's weights 1e5 : 1e2 give, with its shift and the published Gram loss?",
        {
            "ours": {},
            "paper’s": {
                "balance.kind": "schedule", "balance.content": 1e5, "balance.style": 1e2,
                "balance.adversarial": 1e2, "style.relative": False,
            },
        },
        discriminator=True,
    ),
    "adversarial": Ablation(
        "Does a discriminator bring outputs closer to paintings, and in which game?",
        {
            "off": {"balance.adversarial": 0.0},
            "lsgan": {"adversarial.gan_loss": "lsgan"},
            "hinge": {"adversarial.gan_loss": "hinge"},
            "nonsaturating": {"adversarial.gan_loss": "nonsaturating"},
        },
        discriminator=True,
    ),
    "feature-matching": Ablation(
        "Does the content-aware loss on the discriminator's own features help?",
        _each("adversarial.feature_matching", (0.0, 1.0, 10.0)),
        discriminator=True,
    ),
    "scales": Ablation(
        "Should the discriminator look at the picture at half the size, too?",
        _each("adversarial.scales", (1, 2)),
        discriminator=True,
    ),
    "projection": Ablation(
        "Should the discriminator know which painting is meant?",
        _switch("adversarial.projection"),
        discriminator=True,
    ),
    "regularization": Ablation(
        "What should keep the discriminator smooth?",
        {
            "spectral norm": {"adversarial.spectral": True},
            "instance norm, R1": {"adversarial.spectral": False, "adversarial.r1": 10.0},
            "instance norm": {"adversarial.spectral": False},
        },
        discriminator=True,
    ),
    "diffaugment": Ablation(
        "Should the discriminator see augmented pictures?",
        _switch("adversarial.augment"),
        discriminator=True,
    ),
}  # fmt: skip
