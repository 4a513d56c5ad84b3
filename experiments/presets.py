"""Presets of ``underdrawing reproduce`` and ``ablate``: named functions that return a study."""

from collections.abc import Callable, Sequence
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..trainers.config import GeneratorConfig
from ..trainers.model_files import SHIPPED
from ..trainers.runtime import Device

CURVE = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StudyConfig:
    """What all rows of a table share: images, sizes, steps, seeds and evaluation."""

    preset: str = "quick"
    """Preset that gives the defaults below: quick, cpu, standard or paper."""
    photos: Path | None = None
    """Folder of photos; default: the built-in samples."""
    paintings: Path | None = None
    """Folder of paintings; default: the built-in samples."""
    out: Path = Path("runs/reproduce")
    """Folder for runs, tables and report. Run the same command again to continue."""
    init: Path | None = SHIPPED
    """Model that the warm-ups start from: a run, the shipped model (`pretrained`), or None."""
    warmup: Annotated[int, Field(ge=1)] = 40
    """Steps of the warm-up shared by all rows of a seed."""
    steps: Annotated[int, Field(ge=1)] = 40
    """Steps of each row after the warm-up."""
    attention_steps: Annotated[int, Field(ge=0)] = 200
    """Steps after those, of the attention branch alone, of rows that learn a map."""
    size: Annotated[int, Field(ge=32, le=4096)] = 96
    """Side of training crops and test images in pixels."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Global batch size."""
    lr: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate of the generator."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Seeds per row; intervals need at least 2."""
    split: Literal["test", "validation"] = "test"
    """Held-out images to evaluate on: choose on validation, evaluate on test once."""
    pairs: Annotated[int, Field(ge=1)] = 40
    """Maximum number of held-out pairs to evaluate on."""
    strengths: tuple[float, ...] = (0.5, 1.0)
    """Strengths to evaluate each row at: the points of its content/style curve."""
    matched_gap: Annotated[float, Field(gt=0, le=1)] | None = None
    """Style gap closed at which rows are compared; default: the largest that all of them reach."""
    boundaries: Path | None = None
    """Folder of human-drawn boundaries, PNGs named after the photos, for “boundaries kept”."""
    weights_dir: Path | None = None
    """Folder to look for network weights in first."""
    device: Device = "auto"
    """Device to compute on."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the training; auto: bf16 where the hardware supports it."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Data loader processes."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def __post_init__(self) -> None:
        check_rising(self.strengths)


def check_rising(strengths: Sequence[float]) -> None:
    """Check that strengths make a content/style curve.

    Raises:
        ValueError: there is none, or they do not rise within (0, 1].
    """
    rising = sorted({*strengths, 0.0})[1:] == list(strengths)
    if not (rising and strengths and strengths[-1] <= 1):
        raise ValueError(f"strengths are {strengths}; they must rise, above 0 and up to 1")


def quick() -> StudyConfig:
    """Built-in samples, one seed (no intervals): checks that everything runs.

    Command:  underdrawing reproduce
    Time:     about 5 min on two CPU cores
    Expected: a table and a report page; with width 128 and three seeds, SSIM worst tenth 0.48 with
              content features, 0.28 with the pixel loss, at matched style (docs/results.md)
    """
    return StudyConfig()


def cpu() -> StudyConfig:
    """Two folders of images on a CPU: small images, short runs, three seeds.

    Command:  underdrawing reproduce --preset cpu --photos PHOTOS --paintings PAINTINGS
    Time:     about 50 min in two processes on two CPU cores (width 128: 2.7 s per step, 0.3 s
              where the attention branch learns alone, and 1.8 min of scoring per row of a seed, in
              each), twice that beside other work
    Expected: with width 128, SSIM worst tenth 0.41 with content features, 0.22 with the pixel
              loss, at matched style (docs/results.md)
    """
    return replace(
        quick(), preset="cpu", out=Path("runs/reproduce-cpu"), steps=80, attention_steps=400,
        size=128, seeds=3, pairs=200, strengths=CURVE[1:],
    )  # fmt: skip


def standard() -> StudyConfig:
    """Two folders of images on one GPU.

    Command:  underdrawing reproduce --preset standard --photos PHOTOS --paintings PAINTINGS
    Time:     9.7 min in three processes on one H200, which another training shared
    Expected: with width 128, SSIM worst tenth 0.37 with content features, 0.11 with the pixel
              loss, at matched style (docs/results.md)
    """
    return replace(
        quick(), preset="standard", out=Path("runs/reproduce-standard"), warmup=100, steps=150,
        attention_steps=400, size=256, batch_size=32, seeds=3, pairs=1000, strengths=CURVE[1:],
        workers=4,
    )  # fmt: skip


def paper() -> StudyConfig:
    """COCO's 118,000 photos and WikiArt's 80,000 paintings on several GPUs, from nothing.

    Command:  accelerate launch -m underdrawing.experiments.reproduce --preset paper
              --photos COCO --paintings WIKIART
    Time and result: not measured
    """
    return replace(
        standard(), preset="paper", out=Path("runs/reproduce-paper"), init=None, warmup=40_000,
        steps=40_000, attention_steps=4000, pairs=5000, strengths=CURVE, workers=8,
        generator=GeneratorConfig(width=192, blocks=6),
    )  # fmt: skip


#: Name on the command line -> preset.
PRESETS: dict[str, Callable[[], StudyConfig]] = {
    preset.__name__: preset for preset in (quick, cpu, standard, paper)
}


def command_line(study: StudyConfig, *words: str) -> list[str]:
    """Return the command that makes a study: its preset and every option that differs from it."""
    default = PRESETS[study.preset]()
    return ["underdrawing", *words, "--preset", study.preset, *_options(study, default)]


def _options(config: Any, default: Any, part: str = "") -> list[str]:
    words = []
    for key in (each.name for each in fields(config)):
        value, usual, name = getattr(config, key), getattr(default, key), key.replace("_", "-")
        if value == usual:
            continue
        if is_dataclass(value):
            words += _options(value, usual, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{part}{name}" if value else f"--{part}no-{name}")
        else:
            words += [f"--{part}{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words
