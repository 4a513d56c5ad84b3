"""A run is described by one ``TrainConfig``; what is on the command line is what is in here."""

import dataclasses
import json
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..losses.attention import needs_branch
from ..models.generator import Base

Layers = tuple[tuple[str, float], ...]

MAX_LAYERS = 64
MAX_NAME, MAX_PATH = 64, 4096  # characters
TINY, LARGE = 1e-12, 1e12  # of weights and rates; all numbers of a config are finite


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen network whose features define content and style."""

    name: Literal[
        "vgg16", "vgg16_imagenet", "vgg19", "resnet50", "efficientnet_b0", "efficientnet_lite0"
    ] = "vgg16"
    """Architecture and weights; vgg16 is the original release, which style transfer wants."""
    weights_dir: Path | None = None
    """Folder to look for the weights in first."""


@dataclass(frozen=True)
class GeneratorConfig:
    """The stylizing network."""

    width: int = 128
    """Channels at 1/8 resolution; half as many at 1/4."""
    blocks: int = 4
    """Styled residual blocks at 1/8 resolution."""
    noise: bool = True
    """Add noise with a style-predicted gain, without which flat areas get a periodic pattern."""
    base: Base = "covariance"
    """Add the residual to the photo with the painting's color covariance, std per axis, or as is."""

    def __post_init__(self) -> None:
        _within(self, 4, 4096, "width")
        _within(self, 0, 64, "blocks")


@dataclass(frozen=True)
class ContentConfig:
    """What of the photo is kept."""

    kind: Literal["feature", "pixel"] = "feature"
    """Compare encoder features, or pixels (the table's baseline)."""
    layers: Layers = (("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3))
    """Layers with their λ_l; the default is the paper's multi-scale loss."""
    normalization: Literal["none", "l2", "instance", "batch"] = "l2"
    """What is divided out of the features first; batch: of the micro-batch, all others of each
    picture alone."""

    def __post_init__(self) -> None:
        _few("content", self.layers)
        if not all(0 <= weight <= LARGE for _, weight in self.layers):
            raise ValueError(f"content.layers has a weight that is not from 0 to {LARGE:g}")


@dataclass(frozen=True)
class AttentionConfig:
    """Where content counts more."""

    objective: Literal[
        "uniform", "observed", "learned", "oracle", "shuffled", "saliency", "joint", "gate"
    ] = "learned"
    """How the attention map comes about; observed: it is learned, but not used; shuffled: another
    picture's of the micro-batch."""
    target: Literal["structural", "robust_structural", "robust"] = "structural"
    """What maps are aimed at; saliency has its KL alone."""
    budget: float = 0.5
    """ρ: KL of the robust maps to uniform weights, in nats."""
    channels: bool = False
    """Also learn one weight per channel of each content layer."""
    channel_budget: float = 0.1
    """KL of the channel weights to uniform, in nats."""
    gates_decoder: bool = False
    """Let the decoder keep more of the photo where the map is high, without teaching the map.
    Objective gate always does, and is taught by that alone; with uniform, half is kept everywhere:
    the control for both."""
    modulates_strength: bool = False
    """Let the strength s follow the map, as s^A: less paint where content counts. Full strength
    stays full everywhere."""

    def __post_init__(self) -> None:
        _within(self, TINY, 100, "budget", "channel_budget")


@dataclass(frozen=True)
class StyleConfig:
    """What of the painting arrives."""

    kind: Literal["gram", "statistics"] = "gram"
    """Gram matrices (the paper), or channel means and standard deviations."""
    layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    """Layers of the style loss and of the style code."""
    relative: bool = True
    """Divide each layer's distance by the painting's own; False is the published form."""

    def __post_init__(self) -> None:
        _few("style", self.layers)


@dataclass(frozen=True)
class AdversarialConfig:
    """The PatchGAN; switched off by a weight of 0 in ``balance.adversarial``."""

    gan_loss: Literal["lsgan", "hinge", "nonsaturating"] = "hinge"
    """Adversarial loss."""
    width: int = 32
    """Channels of the discriminator's first layer."""
    layers: int = 3
    """Strided convolutions; 3 sees 70x70 pixels."""
    spectral_norm: bool = True
    """Spectral normalization (else instance norm)."""
    projection: bool = True
    """Condition the discriminator on the style code; without it, it teaches an average painting."""
    r1: float = 0.0
    """Weight γ of the R1 penalty."""
    feature_matching: float = 0.0
    """Weight of the content-aware loss on the discriminator's features, within the term."""
    augment: bool = True
    """DiffAugment, on real and fake alike."""

    def __post_init__(self) -> None:
        _within(self, 1, 4096, "width")
        _within(self, 1, 8, "layers")
        _within(self, 0, LARGE, "r1", "feature_matching")


@dataclass(frozen=True)
class BalanceConfig:
    """How the terms are weighed against each other."""

    kind: Literal["fixed", "schedule", "gradient"] = "fixed"
    """Weights as given; content weight shifted over the run; or weights as gradient shares."""
    content: float = 1.0
    """λ of the content term (with kind=gradient, here and below: its share)."""
    style: float = 10.0
    """λ of the style term."""
    adversarial: float = 1.0
    """λ of the adversarial term; 0 trains without a discriminator."""
    tv: float = 0.0
    """Weight of total variation; never balanced."""
    shift: float = 4.0
    """kind=schedule: the content weight starts at √shift times its value, ends at 1/√shift."""
    every: int = 20
    """Steps between measurements of the gradient shares."""

    def __post_init__(self) -> None:
        _within(self, 0, LARGE, "content", "style", "adversarial", "tv")
        _within(self, TINY, LARGE, "shift")
        _within(self, 1, LARGE, "every")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam for generator and discriminator."""

    lr: float = 5e-4
    """Generator's learning rate at its peak."""
    lr_discriminator: float = 4e-4
    """Discriminator's learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's β1 and β2 for the generator."""
    betas_discriminator: tuple[float, float] = (0.5, 0.99)
    """Adam's β1 and β2 for the discriminator."""
    warmup: int = 20
    """Steps of linear warm-up; afterwards cosine decay to a tenth."""
    clip: float = 5.0
    """Largest gradient norm of the generator."""
    ema: float = 0.995
    """Decay of the averaged generator that is saved."""

    def __post_init__(self) -> None:
        _within(self, TINY, LARGE, "lr", "lr_discriminator", "clip")
        _within(self, 0, LARGE, "warmup")
        _within(self, 0, 1 - TINY, "ema")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a training run."""

    recipe: str = "attention-adversarial"
    """Name of the recipe that gives the defaults below."""
    photos: Path | None = None
    """Folder of photos; without it, the built-in samples."""
    paintings: Path | None = None
    """Folder of paintings; without it, the built-in samples."""
    out: Path = Path("runs/train")
    """Run folder. Run the same command again to continue an interrupted run."""
    init: Path | None = None
    """Run folder of a finished model to start from; or `pretrained`, the one that is shipped. The
    command line then takes that model's generator, encoder and style.layers, if not given."""
    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 4
    """Global batch, over all processes and accumulation steps."""
    accumulate: int = 1
    """Micro-batches per step; lowers memory, not the result (but see content.normalization batch
    and attention.objective shuffled)."""
    size: int = 256
    """Side of the training crops in pixels."""
    crop_scale: float = 0.5
    """Smallest crop area, as a share of the picture's largest square."""
    full_strength_prob: float = 0.5
    """Share of examples trained at full strength; the others draw theirs from 0 up to it."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast; auto takes it on GPUs and CPUs that compute in it."""
    compile: bool = False
    """torch.compile the networks; needs a C++ compiler. Did not pay on the CPU it was tried on."""
    cache_images: bool = True
    """Keep the pictures decoded and reduced in the cache folder; the crops are the same."""
    workers: int = 2
    """Loader processes per training process."""
    log_every: int = 20
    """Steps between lines in metrics.jsonl and TensorBoard."""
    image_every: int = 250
    """Steps between picture grids in TensorBoard."""
    save_every: int = 250
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept; the best model has a folder of its own."""
    validate_every: int = 250
    """Steps between looks at held-out pairs, which find the best model."""
    max_skipped: float = 0.1
    """Largest share of steps whose losses or gradients are not finite, over 100 steps."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "image_every",
            "save_every",
            "keep_checkpoints",
            "validate_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("full_strength_prob", "crop_scale", "max_skipped"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be over 0, at most 1")
        if not 32 <= self.size <= 4096:
            raise ValueError(
                f"size is {self.size}; crops must be at least 32 pixels a side, at most 4096"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into {self.accumulate} micro-batches"
            )
        if self.content.kind == "pixel" and self.attention.objective != "uniform":
            raise ValueError("pixel content loss has no attention: set attention.objective uniform")
        objective = self.attention.objective
        for name, also in (("gates_decoder", "uniform"), ("modulates_strength", None)):
            used = getattr(self.attention, name) and objective != also
            if used and not needs_branch(objective):
                raise ValueError(
                    f"attention.{name} needs a predicted map, and objective {objective} predicts "
                    f"none: set attention.{name} False, or objective learned"
                )
        if self.compile and self.adversarial.r1 > 0:
            raise ValueError("compile cannot differentiate R1 twice: set adversarial.r1 0")


def content_layers(config: TrainConfig) -> list[str]:
    """The layers of the content loss; none for the pixel loss."""
    return [name for name, _ in config.content.layers] if config.content.kind == "feature" else []


def encoder_taps(config: TrainConfig) -> list[str]:
    """The encoder layers that a run looks at."""
    return [*config.style.layers, *content_layers(config)]


def to_json(config: Any) -> str:
    """A config as JSON, paths as strings."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


def from_json(text: str) -> TrainConfig:
    """The inverse of ``to_json``; the text may be somebody else's.

    Raises:
        ValueError: not JSON, unknown fields, or values of the wrong kind or out of bounds.
    """
    try:
        return _build(TrainConfig, json.loads(text, object_pairs_hook=_unique))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"this is no training configuration: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(tree := dict(pairs)) < len(pairs):
        raise ValueError("this is no training configuration: it names a setting twice")
    return tree


#: What may differ when a run is continued: what it is called, where and how it is computed, kept
#: and watched.
RUNTIME_ONLY = {
    "recipe", "out", "device", "compile", "cache_images", "workers", "accumulate", "log_every",
    "image_every", "save_every", "keep_checkpoints", "validate_every", "max_skipped",
}  # fmt: skip


def identity_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting that counts, by its name on the command line: all but the free ones."""
    flat = _flatten(json.loads(to_json(config)))
    return {key: value for key, value in flat.items() if key not in RUNTIME_ONLY}


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Lines ``field: old -> new`` for every field that counts and differs."""
    a, b = identity_settings(old), identity_settings(new)
    return [f"{key}: {a[key]} -> {b[key]}" for key in a if a[key] != b[key]]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _build(kind: Any, value: Any) -> Any:
    """A value of the annotated kind from JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    shown = reprlib.repr(value)  # short, and on one line
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{shown} should be an object of settings")
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise ValueError(f"unknown setting(s) {reprlib.repr(unknown)[1:-1]}")
        return kind(**{key: _build(hints[key], value[key]) for key in value})  # type: ignore[operator]
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{shown} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{shown} should be a list")
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) != len(value):
            raise ValueError(f"{shown} should be a list of {len(inner)}")
        return tuple(_build(k, v) for k, v in zip(inner, value, strict=True))
    if isinstance(value, int | float) and not abs(value) <= 2**64:  # nor NaN
        raise ValueError(f"{shown} is no number of a size that a setting has")
    longest = MAX_PATH if kind is Path else MAX_NAME
    if isinstance(value, str) and (len(value) > longest or "\0" in value):
        raise ValueError(f"{shown} is no name that a setting has")
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise ValueError(f"{shown} should be of type {kind.__name__}")
    return value


def _within(config: Any, low: float, high: float, *names: str) -> None:
    """Refuse settings, named by their fields, that are not from ``low`` to ``high``."""
    part = type(config).__name__.removesuffix("Config").lower()
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:  # nor NaN
            raise ValueError(
                f"{part}.{name} is {value}; it must be at least {low}, at most {high:.12g}"
            )


def _few(part: str, layers: tuple[Any, ...]) -> None:
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ValueError(f"{part}.layers must name at least one layer, at most {MAX_LAYERS}")
