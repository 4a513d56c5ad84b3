"""Evaluation protocol: score methods on a fixed manifest of held-out (photo, painting) pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...data.folders import Collection
from ...data.images import read_image, square
from ...metrics.scores import MetricNetworks, PairMetrics, Scores, aggregate, pair_metrics
from ...models.color import color_statistics
from ...models.style_code import match_color, style_code
from ...trainers.model_files import Model, build_encoder
from ...trainers.runtime import join_processes, map_over_processes

T = TypeVar("T")
PairPaths = tuple[Path, Path]  # photo, painting
Boundaries = Mapping[Path, Path]  # photo -> image of the boundaries that people drew in it
REFERENCES = 5000  # paintings; more would take longer than scoring


class PairBatch(NamedTuple):
    """Pairs to stylize."""

    pairs: Sequence[PairPaths]
    content: Tensor  # photos (B,3,S,S) in [0,1]
    style: Tensor  # paintings (B,3,S,S) in [0,1]


Method = Callable[[Tensor, Tensor], Tensor]  # photos, paintings (B,3,S,S) -> outputs (B,3,S,S)
StylizeFn = Callable[[PairBatch], dict[str, Tensor]]  # outputs (B,3,S,S) in [0,1] by method name


def make_manifest(photos: Sequence[Path], paintings: Sequence[Path], pairs: int) -> list[PairPaths]:
    """Choose ``pairs`` distinct pairs, or all there are; each image is used equally often.

    A smaller manifest is a prefix of a larger one.

    Args:
        photos, paintings: distinct images in the order of ``Collection.distinct``, so that the
            choice depends on their content alone.
        pairs: at most so many.

    Raises:
        ValueError: there is no photo or no painting, or ``pairs`` is less than 1.
    """
    if not (photos and paintings):
        raise ValueError(
            f"no held-out images to evaluate on ({len(photos)} photos, {len(paintings)} "
            "paintings); a folder needs at least 3 images to hold one out"
        )
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; it must be at least 1")
    n, m = len(photos), len(paintings)
    # Both lists are cycled; the extra shift after every lcm(n, m) pairs avoids repeated pairs.
    return [
        (photos[i % n], paintings[(i + i // math.lcm(n, m)) % m]) for i in range(min(pairs, n * m))
    ]


def reference_paintings(paintings: Collection, manifest: Sequence[PairPaths]) -> list[Path]:
    """Return the reference set of FID and KID: distinct paintings that are no pair's style.

    With the styles themselves as reference, KID is biased: outputs and references then share
    images, and the unbiased form leaves out comparisons within a set only. At most ``REFERENCES``.
    """
    styles = {paintings.digest(path) for path in {painting for _, painting in manifest}}
    rest = [path for path in paintings.distinct() if paintings.digest(path) not in styles]
    return rest[:REFERENCES]


def read_squares(paths: Sequence[Path], size: int, device: torch.device) -> Tensor:
    """Read images as (B,3,size,size) in [0,1]: shorter side to ``size``, center crop."""
    images = torch.stack([square(read_image(path), size) for path in paths])
    return images.to(device, memory_format=torch.channels_last)


def find_boundaries(folder: Path | None, manifest: Sequence[PairPaths]) -> dict[Path, Path]:
    """Find the PNG named after each photo in a folder of drawn boundaries; none without a folder.

    Raises:
        ValueError: no photo has one, two photos share one, one is its photo or of another shape.
    """
    if folder is None:
        return {}
    files = {photo: folder / f"{photo.stem}.png" for photo in dict.fromkeys(p for p, _ in manifest)}
    found = {photo: file for photo, file in files.items() if file.is_file()}
    if not found:
        photo, file = next(iter(files.items()))
        raise ValueError(
            f"{folder} has no boundaries for any of the {len(files)} held-out photos; name its "
            f"files after the photos, e.g. {file.name} for {photo.name}"
        )
    photos = {file: photo for photo, file in found.items()}
    for photo, file in found.items():
        if photos[file] != photo:
            raise ValueError(f"{photo} and {photos[file]} share the boundaries {file}; rename one")
        if file.samefile(photo):
            raise ValueError(f"{folder} holds the photos themselves; name a folder of drawings")
        sizes = {path: read_image(path).size for path in (file, photo)}
        check_aspect_ratio(file, photo, sizes, "boundaries")
    return found


def read_boundaries(
    photos: Sequence[Path], boundaries: Boundaries, size: int, device: torch.device
) -> Tensor | None:
    """Read the boundaries of photos as ``read_squares`` reads these, (B,1,size,size): the share of
    annotators; NaN for photos without. None if there are no boundaries at all.
    """
    if not boundaries:
        return None
    drawn = torch.full((len(photos), 1, size, size), torch.nan, device=device)
    for i, photo in enumerate(photos):
        if photo in boundaries:
            drawn[i] = read_squares([boundaries[photo]], size, device)[0, :1]
    return drawn


def check_aspect_ratio(
    file: Path, photo: Path, sizes: Mapping[Path, tuple[int, int]], what: str
) -> None:
    """Refuse an image with another aspect ratio than its photo; ``what`` names such images.

    Its sides may differ by a pixel from those of the scaled photo.
    """
    (w, h), (width, height) = sizes[file], sizes[photo]
    if abs(w * height - h * width) > width + height:
        raise ValueError(
            f"{file} has {w}x{h} pixels but its photo {photo} has {width}x{height}; save {what} "
            "with the aspect ratio of their photos"
        )


def resolution(size: int) -> str:
    """Describe how images are resized and quantized, for cards."""
    return f"shorter side to {size} px, center crop, 8 bit"


@torch.no_grad()
def score_methods(
    stylize: StylizeFn,
    manifest: Sequence[PairPaths],
    references: Sequence[Tensor],
    networks: MetricNetworks,
    size: int,
    device: torch.device,
    batch_size: int = 8,
    boundaries: Boundaries | None = None,
) -> dict[str, Scores]:
    """Score all methods of ``stylize``; each image is read once for all of them.

    The processes of a launch share the batches. Each returns the scores of all pairs, identical to
    those of a single process.
    """
    processes = join_processes(device.type)

    def score_batch(pairs: Sequence[PairPaths]) -> dict[str, PairMetrics]:
        photos, paintings = zip(*pairs, strict=True)
        content, style = (read_squares(paths, size, device) for paths in (photos, paintings))
        drawn = read_boundaries(photos, boundaries or {}, size, device)
        photo, goals = networks.extract_features(content), networks.style_features(style)
        saliency = networks.saliency(content) if networks.saliency else None
        published = networks.published_metrics(content, style)
        metrics = {}
        for name, output in stylize(PairBatch(pairs, content, style)).items():
            output = (output * 255).round() / 255  # as a saved image
            features = networks.extract_features(output)
            found = pair_metrics(features, photo, *goals, drawn=drawn, saliency=saliency)
            metrics[name] = found | published(output)
        return metrics

    scored = map_over_processes(processes, score_batch, batches(manifest, batch_size), "scoring")
    photo, painting = map(path_ids, zip(*manifest, strict=True))
    scores = {
        name: aggregate([batch[name] for batch in scored], photo, painting, *references)
        for name in scored[0]
    }
    assert all(s.pairs == len(manifest) for s in scores.values())
    return scores


@torch.no_grad()
def reference_features(
    paintings: Sequence[Path], networks: MetricNetworks, size: int, device: torch.device
) -> list[Tensor]:
    """Return the features (R,D) of reference paintings by each network; none without paintings."""

    def one_batch(paths: Sequence[Path]) -> list[Tensor]:
        return networks.reference_features(read_squares(paths, size, device))

    processes = join_processes(device.type)
    parts = map_over_processes(processes, one_batch, batches(paintings, 8), "reference paintings")
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def path_ids(paths: Sequence[Path]) -> list[int]:
    """Number distinct files from 0, in order of first appearance."""
    ids = {path: i for i, path in enumerate(dict.fromkeys(paths))}
    return [ids[path] for path in paths]


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Split a sequence into batches; the last one may be smaller."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def each(methods: Mapping[str, Method]) -> StylizeFn:
    """Apply methods of photos and paintings alone."""
    return lambda batch: {
        name: method(batch.content, batch.style) for name, method in methods.items()
    }


def together(*parts: StylizeFn) -> StylizeFn:
    """Join the outputs of several functions, in their order."""
    return lambda batch: {k: v for stylize in parts for k, v in stylize(batch).items()}


def trained_method(model: Model, device: torch.device, strengths: Mapping[str, float]) -> StylizeFn:
    """Apply a trained generator at several strengths, by name."""
    layers = list(model.config.style.layers)
    encoder = build_encoder(model.config, layers)[0].to(device)

    def stylize(batch: PairBatch) -> dict[str, Tensor]:
        code = style_code(batch.style, encoder(batch.style, layers))
        return {
            name: model.generator(batch.content, code, strength, attend=False).image
            for name, strength in strengths.items()
        }

    return stylize


#: Trivial methods: their scores put those of trained rows into perspective.
CONTROLS: dict[str, Method] = {
    "identity": lambda content, style: content,
    "color only": lambda content, style: match_color(content, color_statistics(style)),
    "style image as output": lambda content, style: style,
}
