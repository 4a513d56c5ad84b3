"""Scoring a method on a fixed manifest of held-out (photo, painting) pairs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import read_image, square
from ..metrics.judges import Judges, Scores, score
from ..models.encoder import Encoder
from ..models.generator import Generator
from ..models.style_code import match_colour, mean_std, style_code
from ..trainers.model_files import Model, build_encoder

PairPaths = tuple[Path, Path]
Method = Callable[[Tensor, Tensor], Tensor]  # photos, paintings (B,3,S,S) -> outputs


def make_manifest(photos: Sequence[Path], paintings: Sequence[Path], pairs: int) -> list[PairPaths]:
    """The first ``pairs`` of all combinations, photos and paintings used evenly.

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
    n, m = len(photos), len(paintings)
    count = min(pairs, n * m)
    # Both walk round at every pair; the extra shift per lcm meets each combination exactly once.
    return [(photos[i % n], paintings[(i + i // math.lcm(n, m)) % m]) for i in range(count)]


def read_squares(paths: Sequence[Path], size: int, device: torch.device) -> Tensor:
    """Pictures as (B,3,size,size): shorter side to ``size``, centre crop."""
    images = torch.stack([square(read_image(path), size) for path in paths])
    return images.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def evaluate_method(
    method: Method,
    manifest: Sequence[PairPaths],
    paintings: Sequence[Path],
    judges: Judges,
    size: int,
    device: torch.device,
    name: str,
    batch_size: int = 8,
) -> Scores:
    """Apply a method to every pair of the manifest and score it.

    Args:
        method: photos and paintings to outputs, all (B,3,size,size) in [0,1].
        manifest: (photo, painting) files.
        paintings: the reference set of the distances between sets.
        judges: the networks that score.
        size: resolution of the evaluation.
        device: where it runs.
        name: shown on the progress bar.
        batch_size: pairs at a time.
    """
    chunks = [manifest[i : i + batch_size] for i in range(0, len(manifest), batch_size)]
    batches = []
    for chunk in tqdm(chunks, f"stylizing: {name}", leave=False):
        content = read_squares([photo for photo, _ in chunk], size, device)
        style = read_squares([painting for _, painting in chunk], size, device)
        # Rounded to bytes, as a saved picture is: the scores are those of the files.
        batches.append(((method(content, style) * 255).round() / 255, content, style))
    reference = [
        judges.pooled(read_squares(paintings[i : i + batch_size], size, device))
        for i in range(0, len(paintings), batch_size)
    ]
    scores = score(batches, torch.cat(reference), judges)
    assert scores.pairs == len(manifest)
    return scores


def generator_method(
    generator: Generator, encoder: Encoder, layers: Sequence[str], strength: float = 1.0
) -> Method:
    """A trained generator as a ``Method``."""

    def stylize(content: Tensor, style: Tensor) -> Tensor:
        return generator(content, style_code(style, encoder(style, layers)), strength).image

    return stylize


def trained_method(model: Model, device: torch.device, strength: float = 1.0) -> Method:
    """A finished run as a ``Method``, with the encoder its style codes come from."""
    layers = model.config.style.layers
    encoder, _ = build_encoder(model.config, list(layers))
    return generator_method(model.generator, encoder.to(device), layers, strength)


def _colour_only(content: Tensor, style: Tensor) -> Tensor:
    return match_colour(content, torch.cat(mean_std(style), dim=1))


#: Rows that any honest table needs: what the scores say of methods that do nothing clever.
CONTROLS: dict[str, Method] = {
    "identity": lambda content, style: content,
    "colour only": _colour_only,
    "style image as output": lambda content, style: style,
}
