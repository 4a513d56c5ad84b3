"""Presets of ``underdrawing reproduce`` and ``ablate``: named functions, each returning a study."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..trainers.config import GeneratorConfig
from .analysis.curves import check_rising

CURVE = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class StudyConfig:
    """What all rows of a table share: pictures, sizes, steps, seeds, and how they are scored."""

    preset: str = "quick"
    """Preset that gives the defaults below: quick, cpu, standard or paper."""
    photos: Path | None = None
    """Folder of photos; without it, the built-in samples."""
    paintings: Path | None = None
    """Folder of paintings; without it, the built-in samples."""
    out: Path = Path("runs/reproduce")
    """Folder for runs, tables and report. Run the same command again to continue."""
    json: Path | None = None
    """Also write all figures to this file."""
    warmup: int = 400
    """Steps of the start that all rows of a seed share."""
    steps: int = 80
    """Steps of each row after it."""
    size: int = 96
    """Side of training and test pictures in pixels."""
    batch_size: int = 4
    """Global batch."""
    lr: float = 5e-4
    """Generator's learning rate at its peak."""
    seeds: int = 1
    """Seeds per row; intervals need at least 2."""
    split: Literal["test", "validation"] = "test"
    """Held-out pictures to score on: choose on validation, touch test once."""
    pairs: int = 40
    """Held-out pairs to score on, at most."""
    strengths: tuple[float, ...] = (0.5, 1.0)
    """Strengths at which each row is scored: the points of its content/style curve."""
    matched_gap: float | None = None
    """Style gap at which rows are compared; without it, the largest that all rows that stylize
    reach, on 97.5 % of the bootstrap samples of the pairs."""
    full_strength_prob: float = 0.5
    """Share of examples trained at full strength; the others draw it from [0,1]."""
    weights_dir: Path | None = None
    """Folder to look for network weights in first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training; auto takes bf16 on GPUs and CPUs that compute in it."""
    workers: int = 1
    """Loader processes."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def __post_init__(self) -> None:
        for name in ("warmup", "steps", "seeds", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_rising(self.strengths)


def quick() -> StudyConfig:
    """The built-in samples on two CPU cores; one seed, so no intervals.

    Command: ``underdrawing reproduce``
    """
    return StudyConfig()


def cpu() -> StudyConfig:
    """A folder of photos and one of paintings on a CPU: small pictures, short runs, three seeds.

    Command: ``underdrawing reproduce --preset cpu --photos PHOTOS --paintings PAINTINGS``
    """
    return replace(
        quick(), preset="cpu", out=Path("runs/reproduce-cpu"), warmup=800, steps=250, lr=1e-3,
        seeds=3, pairs=64, strengths=CURVE,
    )  # fmt: skip


def standard() -> StudyConfig:
    """A folder of photos and one of paintings on one GPU.

    Command: ``underdrawing reproduce --preset standard --photos PHOTOS --paintings PAINTINGS``
    Not yet timed on a GPU.
    """
    return replace(
        quick(), preset="standard", out=Path("runs/reproduce-standard"), warmup=4000, steps=4000,
        size=256, batch_size=16, seeds=3, pairs=1024, strengths=CURVE, workers=8,
    )  # fmt: skip


def paper() -> StudyConfig:
    """The full recipe: COCO's 118 thousand photos, WikiArt's 80 thousand paintings, several GPUs.

    Command: ``accelerate launch -m underdrawing.experiments.reproduce --preset paper
    --photos COCO --paintings WIKIART``. Nobody has run it yet.
    """
    return replace(
        standard(), preset="paper", out=Path("runs/reproduce-paper"), warmup=40_000, steps=40_000,
        batch_size=32, pairs=5000, generator=GeneratorConfig(width=192, blocks=6),
    )  # fmt: skip


_ALL: tuple[Callable[[], StudyConfig], ...] = (quick, cpu, standard, paper)
#: Name on the command line -> preset.
PRESETS = {preset.__name__: preset for preset in _ALL}
