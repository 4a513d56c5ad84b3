"""Scoring a method on a fixed manifest of held-out (photo, painting) pairs."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...data.folders import Collection
from ...data.images import read_image, square
from ...metrics.scores import MetricNetworks, PairMetrics, Scores, aggregate, pair_metrics
from ...models.encoder import Encoder
from ...models.generator import Generator
from ...models.style_code import match_color, mean_std, style_code
from ...trainers.config import TrainConfig
from ...trainers.model_files import Model, build_encoder
from ...trainers.runtime import join_processes, map_over_processes
from ...trainers.trainer import collections

T = TypeVar("T")
PairPaths = tuple[Path, Path]


class Batch(NamedTuple):
    """Pairs to be painted."""

    pairs: Sequence[PairPaths]
    content: Tensor  # photos (B,3,S,S) in [0,1]
    style: Tensor  # paintings, likewise


Method = Callable[[Tensor, Tensor], Tensor]  # photos, paintings (B,3,S,S) -> outputs
Stylizer = Callable[[Batch], dict[str, Tensor]]  # outputs (B,3,S,S) in [0,1], by name


def make_manifest(photos: Sequence[Path], paintings: Sequence[Path], pairs: int) -> list[PairPaths]:
    """The first ``pairs`` of all combinations, both sides in ``mixed`` order and used evenly.

    Raises:
        ValueError: there is no held-out photo or painting.
    """
    if not (photos and paintings):
        raise ValueError(
            f"no held-out pictures to score on ({len(photos)} photos, {len(paintings)} paintings); "
            "a folder needs at least 3 pictures to set one aside"
        )
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; score on at least 1")
    photos, paintings = mixed(photos), mixed(paintings)
    n, m = len(photos), len(paintings)
    count = min(pairs, n * m)
    # Both walk round at every pair; the extra shift per lcm meets each combination exactly once.
    return [(photos[i % n], paintings[(i + i // math.lcm(n, m)) % m]) for i in range(count)]


def pictures_to_score(
    trained: TrainConfig, photos: Path | None, paintings: Path | None, split: str, notify: bool
) -> tuple[list[Path], list[Path]]:
    """Photos and paintings: all of the folders named; without one, those that the run held out."""
    named = (photos, paintings)
    own = replace(
        trained, photos=photos or trained.photos, paintings=paintings or trained.paintings
    )
    found = [
        every_picture(collection) if folder else list(getattr(collection, split))
        for folder, collection in zip(named, collections(own, notify), strict=True)
    ]
    return found[0], found[1]


def every_picture(collection: Collection) -> list[Path]:
    """All splits, sorted."""
    return sorted([*collection.train, *collection.validation, *collection.test])


def mixed(paths: Sequence[Path]) -> list[Path]:
    """Files in an order that has to do with their names alone, so that the first of them are of
    all folders: splits are listed folder by folder.
    """
    # Not SHA-1: a split takes the first of each folder by that, so a small folder's would be last.
    return sorted(paths, key=lambda p: (hashlib.sha256(os.fsencode(p.name)).digest(), p))


def image_ids(paths: Sequence[Path]) -> list[int]:
    """Each file's number among the different ones, from 0 on."""
    number = {path: i for i, path in enumerate(dict.fromkeys(paths))}
    return [number[path] for path in paths]


def read_squares(paths: Sequence[Path], size: int, device: torch.device) -> Tensor:
    """Pictures as (B,3,size,size): shorter side to ``size``, center crop."""
    images = torch.stack([square(read_image(path), size) for path in paths])
    return images.to(device, memory_format=torch.channels_last)


def resolution(size: int) -> str:
    """In words, how pictures are brought to size and scored."""
    return f"shorter side to {size} px, center crop, 8 bit"


@torch.no_grad()
def score_painter(
    stylizer: Stylizer,
    manifest: Sequence[PairPaths],
    paintings: Sequence[Path],
    networks: MetricNetworks,
    size: int,
    device: torch.device,
    batch_size: int = 8,
) -> dict[str, Scores]:
    """Score all that a painter makes of the pairs, each batch of which is read and judged once.

    The processes of a launch share the batches, which are the same for any number of them; each
    returns the scores of all pairs, to the bit those of a single process with as many threads.

    Args:
        painter: what is scored.
        manifest: (photo, painting) files.
        paintings: the reference set of the distances between sets.
        judges: the networks that score.
        size: resolution of the evaluation.
        device: where it runs.
        batch_size: pairs at a time.
    """
    processes = join_processes(device.type)

    def look(pairs: Sequence[PairPaths]) -> dict[str, PairMetrics]:
        content, style = (read_squares(paths, size, device) for paths in zip(*pairs, strict=True))
        photo, goals = networks.extract_features(content), networks.style_features(style)

        def judged(output: Tensor) -> PairMetrics:
            # Rounded to bytes, as a saved picture is: the scores are those of the files.
            return pair_metrics(
                networks.extract_features((output * 255).round() / 255), photo, *goals
            )

        return {name: judged(x) for name, x in stylizer(Batch(pairs, content, style)).items()}

    def pool(batch: Sequence[Path]) -> list[Tensor]:
        return networks.reference_features(read_squares(batch, size, device))

    pairs, references = batches(manifest, batch_size), batches(paintings, batch_size)
    measured = map_over_processes(processes, look, pairs, "scoring")
    pooled = map_over_processes(processes, pool, references, "looking at the paintings")
    sets = [torch.cat(parts) for parts in zip(*pooled, strict=True)]
    photo, painting = map(image_ids, zip(*manifest, strict=True))
    scores = {
        name: aggregate([batch[name] for batch in measured], photo, painting, *sets)
        for name in measured[0]
    }
    assert all(s.pairs == len(manifest) for s in scores.values())
    return scores


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Items, so many at a time."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def each(methods: Mapping[str, Method]) -> Stylizer:
    """Methods of photos and paintings alone, by name."""
    return lambda batch: {
        name: method(batch.content, batch.style) for name, method in methods.items()
    }


def together(*painters: Stylizer) -> Stylizer:
    """All that several painters make."""
    return lambda batch: {k: v for stylizer in painters for k, v in stylizer(batch).items()}


def generator_painter(
    generator: Generator, encoder: Encoder, layers: Sequence[str], strengths: Mapping[str, float]
) -> Stylizer:
    """A trained generator at several strengths, by name."""

    def paint(batch: Batch) -> dict[str, Tensor]:
        code = style_code(batch.style, encoder(batch.style, layers))
        return {
            name: generator(batch.content, code, strength, attend=False).image
            for name, strength in strengths.items()
        }

    return paint


def trained_painter(model: Model, device: torch.device, strengths: Mapping[str, float]) -> Stylizer:
    """A finished run at several strengths, with the encoder its style codes come from."""
    layers = model.config.style.layers
    encoder, _ = build_encoder(model.config, list(layers))
    return generator_painter(model.generator, encoder.to(device), layers, strengths)


def _color_only(content: Tensor, style: Tensor) -> Tensor:
    return match_color(content, torch.cat(mean_std(style), dim=1))


#: Rows that any honest table needs: what the scores say of methods that do nothing clever.
CONTROLS: dict[str, Method] = {
    "identity": lambda content, style: content,
    "color only": _color_only,
    "style image as output": lambda content, style: style,
}
