"""``underdrawing train`` led by the hand: what was found, what to expect, and what comes next."""

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from ..data.files import identical_files, one_line
from ..data.folders import Collection
from ..data.images import ImageError, open_image
from ..models.encoder import Encoder
from ..models.style_code import COLOUR_SIZE
from ..trainers.checkpoint import saved_step
from ..trainers.config import TrainConfig
from ..trainers.networks import style_codes
from ..trainers.trainer import TIMED, Trainer
from .start import FEW

MEASURED = 1000  # pictures whose size is looked up
COMPARED = 16  # paintings whose looks are compared, at so many pixels:
SIZE = 128
#: Spread of style codes: 0.09 to 0.19 for details of one painting, 0.23 to 0.40 for twenty folders,
#: each of one artist or school or of ten mixed. So it tells how varied, and not how many hands.
ALIKE, VARIED = 0.2, 0.45
MANY = 200  # paintings to train on; the tables in the README are those of 256 and 336


def report(trainer: Trainer) -> str:
    """What was found, and what to expect, before the first step; one line if the run goes on."""
    config = trainer.config
    if done := saved_step(config.out):
        return f"run         {config.out} goes on after step {done} of {config.steps}"
    folders = {"photos": trainer.photos, "paintings": trainer.paintings}
    lines = {name: _found(pictures, config) for name, pictures in folders.items()}
    lines["looks"] = _looks(trainer.paintings.train, trainer.networks.encoder, config)
    lines["expect"] = [_expect(len(trainer.paintings.train), config)]
    lines["time"] = [f"is said after {TIMED} steps; --dry-run tries it beforehand"]
    return "\n".join(
        f"{name if i == 0 else '':<12}{sentence}"
        for name, sentences in lines.items()
        for i, sentence in enumerate(sentences)
    )


def _found(pictures: Collection, config: TrainConfig) -> list[str]:
    """Counts, sizes and duplicates."""
    counts = f"{len(pictures.train)} to train on, {len(pictures.validation)} to validate, "
    lines = [f"{counts}{len(pictures.test)} to test"]
    every = [path for part in vars(pictures).values() for path in part]
    looked_at = every[:: len(every) // MEASURED + 1]
    with ThreadPoolExecutor() as pool:
        sides = [side for side in pool.map(_shorter_side, looked_at) if side]
    if sides:
        some = "" if len(looked_at) == len(every) else f", of {len(looked_at)} looked at"
        span = f"{min(sides)}" if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}"
        lines.append(f"shorter sides of {span} pixels{some}")
        if small := sum(side < config.size for side in sides):
            lines.append(
                f"{small} of {len(sides)} are smaller than --size {config.size} and are enlarged, "
                "which softens them"
            )
    if copies := sum(len(alike) - 1 for alike in identical_files(pictures.train)):
        are = "is a copy" if copies == 1 else "are copies"
        lines.append(f"{copies} to train on {are} of another; `underdrawing data check` names them")
    return lines


def _shorter_side(path: Path) -> int | None:
    """From the file's header, as decoding thousands would take long."""
    try:
        with open_image(path) as image:
            return min(image.size)
    except ImageError:
        return None


def _looks(paintings: Sequence[Path], encoder: Encoder, config: TrainConfig) -> list[str]:
    """How varied the paintings are, in words."""
    if len(paintings) < 2:
        return []
    chosen = paintings[:: len(paintings) // COMPARED + 1]
    codes = style_codes(encoder, chosen, replace(config, size=SIZE))
    layers = config.style.layers
    value = spread(codes, [n for layer, n in encoder.channels().items() if layer in layers])
    return [f"{_in_words(value)} (spread {value:.2f}; usually 0.23 to 0.40)"]


def _in_words(value: float) -> str:
    if value < ALIKE:
        return "very alike, like details of one painting: one look will be learned"
    if value > VARIED:
        return "very varied: expect the outputs to be so, too, each after its own painting"
    return "as varied as the work of an artist or a school is"


def spread(codes: torch.Tensor, sizes: Sequence[int]) -> float:
    """How far style codes (N,D) lie apart, relative to their size: the mean over colours and
    layers, whose statistics count alike.
    """
    deviation, mean = codes.var(dim=0), codes.square().mean(dim=0)
    parts = [COLOUR_SIZE, *(2 * size for size in sizes)]
    shares = [
        (v.mean() / m.mean().clamp_min(1e-12)).sqrt()
        for v, m in zip(deviation.split(parts), mean.split(parts), strict=True)
    ]
    return float(torch.stack(shares).mean())


def _expect(paintings: int, config: TrainConfig) -> str:
    """What so many paintings make of a model."""
    if paintings <= FEW:
        looks = "one look" if paintings == 1 else f"{paintings} looks"
        if config.init:
            return f"the model it starts from, drawn to {looks}; others are followed hardly less"
        return f"{looks}, learned by heart; do not expect much of it for other paintings"
    if paintings < MANY:
        return "the manner of these paintings, also for others of the same hand"
    return "the manner of paintings that it has not seen, too"


def next_lines(
    config: TrainConfig, arguments: Sequence[str], photos: Collection, paintings: Collection
) -> str:
    """Commands for a finished run, with its own folders."""
    run = str(config.out)
    photo, painting = (([*c.test, *c.validation, *c.train])[0] for c in (photos, paintings))
    evaluate = ["underdrawing", "evaluate", run]
    for name, collection in (("photos", photos), ("paintings", paintings)):
        if not collection.test:  # none is held out: scored on those it knows
            evaluate += [f"--{name}", str(getattr(config, name))]
    stylize = ["underdrawing", "stylize", photo, "--style", painting, "--model", run]
    longer = ["underdrawing", "train", *_without(arguments, "--steps")]
    lines = {
        "model": str(config.out / "model.safetensors"),
        "gallery": str(config.out / "gallery" / "index.html"),
        "stylize": _join([*stylize, "--out", "stylized"]),
        "evaluate": _join(evaluate),
        "longer": _join([*longer, "--steps", 2 * config.steps]),
    }
    return "\n".join(f"{name:<12}{one_line(text)}" for name, text in lines.items())


def same_command(arguments: Sequence[str]) -> str:
    """As it would be typed."""
    return _join(["underdrawing", "train", *arguments])


def _join(words: Sequence[object]) -> str:
    return shlex.join(map(str, words))


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    """All words but an option and its value."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word != flag and not word.startswith(f"{flag}="):
            kept.append(word)
        skip = word == flag
    return kept
