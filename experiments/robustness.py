"""``underdrawing robustness``: what losses and outputs make of a photo in another light.

The paper claims that content-aware losses are robust to changes that leave a photo's content alone.
Two measurements, over changes of growing severity (``data/changes.py``):

- **The losses.** Each content loss between a photo and the same photo changed, divided by the mean
  of that loss between each photo and *another photo*: 0 takes the changed photo for the same
  content, 1 for another picture altogether. A robust loss stays low. A is the one of the photo
  unchanged, as in training.
- **The outputs.** Photo and changed photo are painted after the same painting: how far are the two
  outputs from each other, beside the two inputs (the row ``identity``)? A method is robust if its
  output changes less than its input. One that ignores its photo is that, too: the figures stand
  beside those of its outputs for two different photos.

Several GPUs: ``accelerate launch -m underdrawing.experiments.robustness RUN``.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from ..losses.content import ContentLoss
from ..metrics.scores import FeatureExtractor
from ..models.encoder import Encoder
from ..models.style_code import style_code
from ..trainers.config import TrainConfig
from ..trainers.model_files import Model, build_encoder, load_model, own_folder
from ..trainers.runtime import join_processes, map_over_processes
from .main import run_command
from .robustness_report import Facts, to_markdown, write_robustness
from .scoring.networks import make_networks
from .scoring.protocol import (
    CONTROLS,
    Method,
    PairPaths,
    batches,
    make_manifest,
    pictures_to_score,
    read_squares,
    resolution,
)
from .sensitivity import (
    LOSS,
    FeatureLoss,
    Figures,
    Stylizer,
    Summary,
    feature_loss,
    joined,
    make_views,
    measure_losses,
    measure_outputs,
    plain_losses,
    summarize,
)

BATCH = 4  # photos at a time, each of them in all its views
CONTROL_ROWS = ("identity", "color only")


@dataclass(frozen=True)
class RobustnessConfig:
    """Measure how content losses and outputs take changes of the photo's light, contrast, noise
    and compression.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of trained models with one encoder."""
    photos: Path | None = None
    """Folder of photos, all of it; without it, the held-out photos of the first run."""
    paintings: Path | None = None
    """Folder of paintings, all of it; without it, the held-out paintings of the first run."""
    split: Literal["test", "validation"] = "test"
    """Which held-out pictures."""
    pairs: int = 64
    """Pairs of a photo and a painting, at most; no photo comes twice."""
    size: int | None = None
    """Side of the pictures; without it, the training size of the first run."""
    seed: int = 0
    """Seed of the noise."""
    weights_dir: Path | None = None
    """Folder to look for the judges' weights in first."""
    out: Path | None = None
    """Folder for robustness.html, .md and .json; without it, RUN/robustness of the first run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class StudyScorer:
    """What every photo is looked at with."""

    manifest: Sequence[PairPaths]
    models: Mapping[str, Model]
    encoder: Encoder  # of all of them
    layers: list[str]  # of the losses
    extractor: FeatureExtractor  # LPIPS
    size: int
    seed: int
    device: torch.device


def robustness(config: RobustnessConfig) -> tuple[Summary, Facts]:
    """Measure; every process returns the same, the first one writes it.

    Raises:
        ValueError: no such run, runs of several encoders, or fewer than two photos.
    """
    processes = join_processes(config.device)
    device, main = processes.device, processes.is_main_process
    loaded = [load_model(run, device) for run in config.runs]
    first = with_one_encoder([model.config for model in loaded])
    names = run_names(config.runs, [model.config.recipe for model in loaded])
    models = dict(zip(names, loaded, strict=True))
    out = config.out or own_folder(config.runs[0], "robustness")
    layers = [layer for m in models.values() for layer, _ in m.config.content.layers]
    styles = [layer for m in models.values() for layer in m.config.style.layers]
    with processes.main_process_first():  # the first one fills the caches
        manifest = held_out_pairs(config, first, main)
        encoder, pretrained = build_encoder(first, [*layers, *styles])
        networks = make_networks(device, config.weights_dir)
    scorer = StudyScorer(
        manifest, models, encoder.to(device), list(dict.fromkeys(layers)), networks.perceptual,
        config.size or first.size, config.seed, device,
    )  # fmt: skip
    positions = batches(range(len(manifest)), BATCH)
    measured = map_over_processes(
        processes, lambda batch: look(scorer, batch), positions, "changing photos"
    )
    summary = summarize(joined(measured))
    facts = Facts(
        dict(zip(names, config.runs, strict=True)), manifest, resolution(scorer.size),
        (pretrained.name, pretrained.sha256), (networks.lpips_name, *networks.perceptual.words),
    )  # fmt: skip
    if main:
        write_robustness(summary, facts, config, out)
    return summary, facts


def with_one_encoder(configs: Sequence[TrainConfig]) -> TrainConfig:
    """The first of the runs' configurations.

    Raises:
        ValueError: there is none, or they have different encoders.
    """
    if not configs:
        raise ValueError("name at least one run folder")
    encoders = {replace(config.encoder, weights_dir=None) for config in configs}
    if len(encoders) > 1:
        names = ", ".join(sorted(e.name + " smoothed" * e.smooth for e in encoders))
        raise ValueError(
            f"these runs have different encoders ({names}), so their losses are not of the same "
            "features; measure them apart"
        )
    return configs[0]


def run_names(runs: Sequence[Path], recipes: Sequence[str]) -> list[str]:
    """The runs' recipes, with their folders where several have one recipe."""
    return [
        recipe if recipes.count(recipe) == 1 else f"{recipe} ({run})"
        for run, recipe in zip(runs, recipes, strict=True)
    ]


def held_out_pairs(config: RobustnessConfig, trained: TrainConfig, notify: bool) -> list[PairPaths]:
    """Pairs of a photo and a painting, no photo twice.

    Raises:
        ValueError: there are not two photos, or no painting.
    """
    photos, paintings = pictures_to_score(
        trained, config.photos, config.paintings, config.split, notify
    )
    manifest = make_manifest(photos, paintings, min(config.pairs, len(photos)))
    if len(manifest) < 2:
        raise ValueError("one photo is not enough: its loss is set beside that to another one")
    return manifest


@torch.no_grad()
def look(scorer: StudyScorer, positions: Sequence[int]) -> Figures:
    """Every loss and method on the photos at these positions of the manifest, in all views."""
    pairs = [scorer.manifest[i] for i in positions]
    following = [scorer.manifest[(i + 1) % len(scorer.manifest)] for i in positions]
    photos, others, paintings = (
        read_squares(paths, scorer.size, scorer.device)
        for paths in ([p for p, _ in pairs], [p for p, _ in following], [p for _, p in pairs])
    )
    views = make_views(photos, others, scorer.seed, positions)
    losses = plain_losses([model.config.content for model in scorer.models.values()])
    painters = {name: after(CONTROLS[name], paintings) for name in CONTROL_ROWS}
    for name, model in scorer.models.items():
        layers = model.config.style.layers
        code = style_code(paintings, scorer.encoder(paintings, layers))
        losses |= attended_loss(name, model, photos, code)
        painters[name] = stylizer(model, code)
    return {
        LOSS: measure_losses(views, lambda x: scorer.encoder(x, scorer.layers), losses),
        **measure_outputs(views, painters, scorer.extractor),
    }


def attended_loss(name: str, model: Model, photos: Tensor, code: Tensor) -> dict[str, FeatureLoss]:
    """The run's own content loss, weighted as its branch says of these photos; none without one."""
    if model.generator.attention is None:
        return {}
    content, output = model.config.content, model.generator(photos, code)
    loss = ContentLoss(content.layers, content.normalization)
    return {f"weighted by A of {name}": feature_loss(loss, output.attention, output.channels)}


def after(method: Method, paintings: Tensor) -> Stylizer:
    """A method with its paintings."""
    return lambda photos: method(photos, paintings)


def stylizer(model: Model, code: Tensor) -> Stylizer:
    """A run's generator, with the style codes (B,D) of the paintings."""
    return lambda photos: model.generator(photos, code, attend=False).image


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(RobustnessConfig, prog="underdrawing robustness", args=arguments)
    summary, facts = robustness(config)
    if join_processes(config.device).is_main_process:
        print(to_markdown(summary, facts))


if __name__ == "__main__":
    run_command("robustness", sys.argv[1:])
