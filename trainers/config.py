"""The configuration of a training run; the command line is generated from these classes."""

import dataclasses
import json
import reprlib
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..losses.attention import needs_branch
from ..models.generator import Base
from .runtime import Device

MAX_LAYERS = 64
SMALL, LARGE = 1e-12, 1e12

Name = Annotated[str, Field(max_length=64)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Weight = Annotated[float, Field(ge=0, le=LARGE)]
Positive = Annotated[float, Field(ge=SMALL, le=LARGE)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Divergence = Annotated[float, Field(ge=SMALL, le=100)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Layers = Annotated[tuple[tuple[Name, Weight], ...], Field(min_length=1, max_length=MAX_LAYERS)]

#: Values are never converted (``True`` is not 1, ``"3"`` is not 3), and all numbers are finite.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _refuse_repeated(kind: str, names: Sequence[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{kind} {reprlib.repr(twice[0])} is given twice")


@dataclass(frozen=True, config=STRICT)
class EncoderConfig:
    """The frozen network whose features define content and style."""

    name: Literal[
        "vgg16", "vgg16_imagenet", "vgg19", "resnet50", "efficientnet_b0", "efficientnet_lite0"
    ] = "vgg16"
    """Architecture and weights; vgg16 is the original release, usual in style transfer."""
    weights_dir: Path | None = None
    """Directory to search for the weights first."""


@dataclass(frozen=True, config=STRICT)
class GeneratorConfig:
    """The stylizing network."""

    width: Annotated[int, Field(ge=4, le=4096)] = 96
    """Channels at 1/8 resolution; half as many at 1/4."""
    blocks: Annotated[int, Field(ge=0, le=64)] = 4
    """Number of styled residual blocks at 1/8 resolution."""
    noise: bool = True
    """Add noise with a style-predicted gain; without, flat areas can get a periodic pattern."""
    base: Base = "covariance"
    """Colors the residual is added to: full color covariance, std per axis, or the photo's own."""


@dataclass(frozen=True, config=STRICT)
class ContentConfig:
    """The content loss."""

    kind: Literal["feature", "pixel"] = "feature"
    """Compare encoder features, or pixels (the baseline of the table)."""
    layers: Layers = (("conv3_2", 0.2), ("conv4_2", 0.5), ("conv5_2", 0.3))
    """Layers and λ_l; default: multi-scale loss of 问答酱 (2025); of others: ENCODER:LAYER."""
    normalization: Literal["none", "l2", "instance", "batch"] = "l2"
    """Normalization of the features, per image; batch: statistics of the micro-batch."""
    dynamic_layers: bool = False
    """Choose λ_l per photo: deep layers count more in complex photos, shallow ones in simple."""

    def __post_init__(self) -> None:
        _refuse_repeated("content layer", [name for name, _ in self.layers])
        if sum(weight for _, weight in self.layers) < SMALL:
            raise ValueError(
                "all weights of content.layers are 0: raise one, or set balance.content 0"
            )


@dataclass(frozen=True, config=STRICT)
class AttentionConfig:
    """The attention map A that weights the content loss."""

    objective: Literal[
        "uniform", "observed", "learned", "oracle", "shuffled", "saliency", "joint", "gate"
    ] = "learned"
    """Source of A; observed: learned but unused; shuffled: another image's A of the micro-batch."""
    budget: Divergence = 0.5
    """ρ: KL of A to uniform weights, in nats."""
    paintings: Count = 4
    """Number of paintings over which the error is averaged that the branch learns to predict."""
    final_steps: Annotated[int, Field(ge=0, le=10**12)] | None = None
    """Last steps, in which the branch learns alone (with init: up to all); default: a tenth."""
    channels: bool = False
    """Also learn one weight per channel of each content layer."""
    channel_budget: Divergence = 0.1
    """KL of the channel weights to uniform, in nats."""
    gates_decoder: bool = False
    """Let A gate a skip from the photo's features; uniform: constant gate; implied by gate."""
    modulates_strength: bool = False
    """Use s^A as strength: less change where A is high; s = 0 and s = 1 are unaffected."""


@dataclass(frozen=True, config=STRICT)
class StyleConfig:
    """The style loss."""

    kind: Literal["gram", "statistics", "half_size", "sliced_wasserstein"] = "sliced_wasserstein"
    """Terms, each with those before it; half_size: also at half the size, for larger strokes."""
    layers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_LAYERS)] = (
        "relu1_1", "relu2_1", "relu3_1", "relu4_1",
    )  # fmt: skip
    """Layers of the style loss and of the style code."""
    relative: bool = True
    """Divide the distance of each layer by the painting's own norm; False: the published form."""

    def __post_init__(self) -> None:
        _refuse_repeated("style layer", self.layers)


@dataclass(frozen=True, config=STRICT)
class AdversarialConfig:
    """The PatchGAN discriminator; disabled by ``balance.adversarial`` 0."""

    gan_loss: Literal["lsgan", "hinge", "nonsaturating"] = "hinge"
    """Adversarial loss."""
    width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Channels of the first layer."""
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Number of strided convolutions; 3 gives a receptive field of 70x70 pixels."""
    spectral_norm: bool = False
    """Spectral norm instead of instance norm; in our runs it hardly told outputs from paintings."""
    projection: bool = True
    """Condition on the style code by projection."""
    r1: Weight = 0.0
    """Weight γ of the R1 penalty."""
    feature_matching: Weight = 0.0
    """Weight of the content loss on the discriminator's features, within the adversarial term."""
    augment: bool = True
    """Apply DiffAugment to real and fake images."""


@dataclass(frozen=True, config=STRICT)
class ClipConfig:
    """The CLIP-like model that compares outputs with ``text``."""

    model: Name = "ViT-B-32"
    """Name of the model in open_clip."""
    weights: Annotated[str, Field(max_length=4096)] = "laion2b_s34b_b79k"
    """Weights of the model: a file, or a tag of open_clip (its cache or download)."""
    weight: Weight = 1.0
    """Weight of the text term; never balanced."""
    patches: Annotated[int, Field(ge=0, le=1024)] = 8
    """Distorted patches per image that are compared too."""
    patch_weight: Weight = 18.0
    """Weight of the patches relative to the whole image; 18 in CLIPstyler."""


@dataclass(frozen=True, config=STRICT)
class BalanceConfig:
    """Weights of the loss terms."""

    kind: Literal["fixed", "schedule", "gradient"] = "fixed"
    """Constant weights, content weight lowered over the run, or weights as gradient shares."""
    content: Weight = 3.0
    """Weight λ of the content term (kind gradient: its gradient share, also below)."""
    style: Weight = 5.0
    """Weight λ of the style term."""
    adversarial: Weight = 0.3
    """Weight λ of the adversarial term; 0 trains without a discriminator."""
    tv: Weight = 0.0
    """Weight of total variation; never balanced."""
    shift: Positive = 4.0
    """kind schedule: the content weight starts at √shift and ends at 1/√shift times its value."""
    every: Count = 20
    """Interval in steps at which the gradient shares are measured."""


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """Adam for generator and discriminator."""

    lr: Positive = 1e-3
    """Peak learning rate of the generator."""
    lr_discriminator: Positive = 4e-4
    """Peak learning rate of the discriminator."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """β1 and β2 of the generator's Adam."""
    betas_discriminator: tuple[Beta, Beta] = (0.5, 0.99)
    """β1 and β2 of the discriminator's Adam."""
    warmup: Annotated[int, Field(ge=0, le=10**12)] = 100
    """Steps of linear warm-up, followed by cosine decay to a tenth."""
    clip: Positive = 5.0
    """Maximum gradient norm of the generator."""
    ema: Beta = 0.999
    """Decay of the averaged generator, which is saved; lower in the first 9,000 steps."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Everything that defines a training run."""

    recipe: Name = "attention-adversarial"
    """Name of the recipe that sets the defaults below."""
    photos: Path | None = None
    """Directory of photos; default: the built-in samples."""
    paintings: Path | None = None
    """Directory of paintings; default: the built-in samples."""
    out: Path = Path("runs/train")
    """Run directory; run the same command again to resume an interrupted run."""
    init: Path | None = None
    """Initialize from this run directory, or from the shipped model (`pretrained`)."""
    text: Annotated[str, Field(max_length=1000)] = ""
    """Describe a style in words that outputs shall approach as well (extra `text`)."""
    steps: Count = 5000
    """Optimization steps."""
    batch_size: Count = 16
    """Global batch size, over all processes and micro-batches."""
    accumulate: Count = 1
    """Micro-batches per step; less memory, same result (except batch norm and shuffled A)."""
    size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of the training crops in pixels."""
    crop_scale: Fraction = 0.4
    """Minimum area of a crop before it is cut to the image, relative to its largest square."""
    full_strength_prob: Fraction = 0.5
    """Fraction of examples trained at strength 1; the others draw theirs from [0, 1]."""
    paintings_as_photos: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Fraction of examples whose photo is replaced by another painting."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all random numbers."""
    device: Device = "auto"
    """Device to compute on."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of autocast; auto: bf16 where the hardware supports it, else fp32."""
    compile: bool = False
    """Apply torch.compile to the networks; needs a C++ compiler. No speed-up measured on CPU."""
    cuda_graphs: bool = True
    """On one GPU, record the training step as CUDA graphs: same result, fewer launches."""
    cache_images: bool = True
    """Cache decoded, downscaled images on disk (bit-identical crops)."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """DataLoader workers per process."""
    log_every: Count = 20
    """Logging interval in steps (metrics.jsonl and TensorBoard)."""
    image_every: Count = 250
    """Interval in steps of image grids in TensorBoard."""
    save_every: Count = 250
    """Checkpoint interval in steps."""
    keep_checkpoints: Count = 2
    """Number of checkpoints kept, in addition to the best model in RUN/best."""
    validate_every: Count = 250
    """Validation interval in steps; the best model is kept in RUN/best."""
    max_skipped: Fraction = 0.1
    """Maximum fraction of steps with non-finite losses or gradients, per 100 steps."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        objective = self.attention.objective
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}"
            )
        final = self.attention.final_steps or 0
        if final > self.steps or (final == self.steps and self.init is None):
            raise ValueError(
                f"attention.final_steps {final} leaves no step for the generator: it must be less "
                f"than steps, {self.steps}, or with --init at most equal"
            )
        if self.content.kind == "pixel" and objective != "uniform":
            raise ValueError("content.kind pixel has no map: set attention.objective uniform")
        # With objective uniform the gate is a constant, the control of a learned gate.
        gated = self.attention.gates_decoder and objective != "uniform"
        if (gated or self.attention.modulates_strength) and not needs_branch(objective):
            name = "gates_decoder" if gated else "modulates_strength"
            raise ValueError(
                f"attention.{name} needs a predicted map, and objective {objective} predicts "
                f"none: set attention.{name} False, or objective learned"
            )
        if self.compile and self.adversarial.r1 > 0:
            raise ValueError("compile cannot differentiate R1 twice: set adversarial.r1 0")


def content_layers(config: TrainConfig) -> list[str]:
    """Return the layers of the content loss; empty for the pixel loss."""
    return [name for name, _ in config.content.layers] if config.content.kind == "feature" else []


def encoder_taps(config: TrainConfig) -> list[str]:
    """Return the encoder layers that a run uses."""
    return [*config.style.layers, *content_layers(config)]


def to_json(config: Any) -> str:
    """Serialize a configuration, with paths as strings."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


_ADAPTER = TypeAdapter(TrainConfig)


def from_json(text: str) -> TrainConfig:
    """Parse the output of ``to_json``; the text may come from an untrusted source.

    Raises:
        ValueError: not JSON, an unknown or duplicate setting, or a value of the wrong type or
            out of bounds; in one line.
    """
    try:
        json.loads(text, object_pairs_hook=_refuse_duplicates)
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ValueError(validation_message(error)) from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a training configuration: {error}") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    _refuse_repeated("setting", [name for name, _ in pairs])


def validation_message(error: ValidationError) -> str:
    """Describe the first error in one line: the setting, the value given and what is allowed."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # raised by __post_init__
        return str(first["ctx"]["error"])
    section = error.title.removesuffix("Config").lower()  # when raised by a section itself
    path = [section] if section in TrainConfig.__dataclass_fields__ else []
    name = ".".join([*path, *map(str, first["loc"])]) or "the configuration"
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown setting {reprlib.repr(name)}"
    allowed = first["msg"].replace("Input should", "it must", 1)
    return f"{name} is {reprlib.repr(first['input'])}; {allowed}"


#: Settings that may change when a run is resumed: they do not affect the result (for ``accumulate``
#: see also ``identity_settings``), or name a place whose content is compared instead (images,
#: initial model, weights of the encoder).
RUNTIME_ONLY = {
    "photos", "paintings", "init", "encoder.weights_dir", "recipe", "out", "device", "compile",
    "cuda_graphs", "cache_images", "workers", "accumulate", "log_every", "image_every",
    "save_every", "keep_checkpoints", "validate_every", "max_skipped",
}  # fmt: skip


def identity_settings(config: TrainConfig) -> dict[str, Any]:
    """Return all settings that affect the result, by their names on the command line; those of the
    text term only if there is a text.
    """
    unused = RUNTIME_ONLY if config.text else {*RUNTIME_ONLY, "text"}
    if config.attention.objective == "shuffled" or config.content.normalization == "batch":
        unused = unused - {"accumulate"}  # which sets the images that are shuffled or normalized
    return {
        name: value
        for name, value in _all_settings(config).items()
        if name not in unused and (config.text or not name.startswith("clip."))
    }


def _all_settings(config: TrainConfig) -> dict[str, Any]:
    """Return all settings by their names on the command line."""
    settings: dict[str, Any] = {}
    for name, value in json.loads(to_json(config)).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            settings[name] = value
    return settings


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return a line ``setting: old -> new`` for each differing setting that affects the result."""
    a, b = _all_settings(old), _all_settings(new)
    names = identity_settings(old) | identity_settings(new)
    return [f"{name}: {a[name]} -> {b[name]}" for name in names if a[name] != b[name]]
