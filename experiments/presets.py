"""Presets of ``underdrawing reproduce``: named functions returning its full configuration."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..trainers.config import GeneratorConfig, TrainConfig
from .recipes import RECIPES


@dataclass(frozen=True)
class ReproduceConfig:
    """Train and score every row of the paper's table and the control rows; write the report."""

    preset: str = "quick"
    """Preset that gives the defaults below: quick, standard or paper."""
    photos: Path | None = None
    """Folder of photos; without it, the built-in samples."""
    paintings: Path | None = None
    """Folder of paintings; without it, the built-in samples."""
    out: Path = Path("runs/reproduce")
    """Folder for runs, table and report. Run the same command again to continue."""
    json: Path | None = None
    """Also write the table to this file."""
    warmup: int = 400
    """Steps of the start that all rows of a seed share."""
    steps: int = 80
    """Steps of each row after it."""
    size: int = 96
    """Side of training and test pictures in pixels."""
    batch_size: int = 4
    """Global batch."""
    seeds: int = 1
    """Seeds per row; intervals need at least 2."""
    pairs: int = 40
    """Held-out pairs to score on, at most."""
    full_strength: float = 1.0
    """Share of examples trained at full strength."""
    weights_dir: Path | None = None
    """Folder to look for network weights in first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training; auto takes bf16 on GPUs and CPUs that compute in it."""
    workers: int = 1
    """Loader processes."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


def quick() -> ReproduceConfig:
    """The built-in samples on two CPU cores; one seed, so no intervals.

    Command: ``underdrawing reproduce``
    """
    return ReproduceConfig()


def standard() -> ReproduceConfig:
    """A folder of photos and one of paintings on one GPU.

    Command: ``underdrawing reproduce --preset standard --photos PHOTOS --paintings PAINTINGS``
    Not yet timed on a GPU.
    """
    return replace(
        quick(), preset="standard", out=Path("runs/reproduce-standard"), warmup=4000, steps=4000,
        size=256, batch_size=16, seeds=3, pairs=1024, full_strength=0.5, workers=8,
    )  # fmt: skip


def paper() -> ReproduceConfig:
    """The full recipe: COCO's 118 thousand photos, WikiArt's 80 thousand paintings, several GPUs.

    Command: ``accelerate launch -m underdrawing.experiments.reproduce --preset paper
    --photos COCO --paintings WIKIART``. Nobody has run it yet.
    """
    return replace(
        standard(), preset="paper", out=Path("runs/reproduce-paper"), warmup=40_000, steps=40_000,
        batch_size=32, pairs=5000, generator=GeneratorConfig(width=96, blocks=6),
    )  # fmt: skip


_ALL: tuple[Callable[[], ReproduceConfig], ...] = (quick, standard, paper)
#: Name on the command line -> preset.
PRESETS = {preset.__name__: preset for preset in _ALL}


def warmup_config(config: ReproduceConfig, seed: int) -> TrainConfig:
    """The start that all rows of a seed share: multi-layer content, no attention, no D."""
    base = _sized(config, "multi-layer")
    return replace(
        base, out=config.out / f"seed-{seed}" / "warm-up", steps=config.warmup, seed=seed
    )


def row_config(config: ReproduceConfig, recipe: str, seed: int) -> TrainConfig:
    """One row, from the shared start. Its seed differs, so that it sees new crops."""
    base, folder = _sized(config, recipe), config.out / f"seed-{seed}"
    return replace(
        base, out=folder / recipe, init=folder / "warm-up", steps=config.steps, seed=1000 + seed,
        optimizer=replace(base.optimizer, warmup=5),  # the generator is trained already
    )  # fmt: skip


def _sized(config: ReproduceConfig, recipe: str) -> TrainConfig:
    """A recipe with the reproduction's data and sizes."""
    chosen = RECIPES[recipe]()
    return replace(
        chosen, photos=config.photos, paintings=config.paintings, device=config.device,
        precision=config.precision, batch_size=config.batch_size, size=config.size,
        full_strength=config.full_strength, workers=config.workers, generator=config.generator,
        encoder=replace(chosen.encoder, weights_dir=config.weights_dir),
    )  # fmt: skip
