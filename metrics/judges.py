"""Scoring outputs: pure functions of pictures, with the feature networks injected."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cards import Card
from .distribution import frechet_distance, kernel_distance
from .perceptual import lpips, ssim_scores
from .style_gap import style_gap_closed

PER_PAIR = ("ssim", "ssim_worst", "lpips", "style_gap")

Features = dict[str, Tensor]
Network = Callable[[Tensor, Collection[str]], Features]  # images (B,3,H,W), layers -> features


@dataclass(frozen=True)
class Judge:
    """A network and the vector (B,D) that is made of its features; call it on images (B,3,H,W)."""

    network: Network
    layers: Collection[str]
    vector: Callable[[Features], Tensor]  # may be given more layers than its own
    words: tuple[str, str]  # the network's name, its weights' sha256

    def __call__(self, images: Tensor) -> Tensor:
        return self.vector(self.network(images, self.layers))


class View(NamedTuple):
    """Images (B,3,H,W) with the vector (B,D) that each judge makes of them."""

    images: Tensor
    style: Tensor
    perceptual: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Judges:
    """The networks that score, and what their figures are called."""

    style: Judge  # ``style_vector``
    perceptual: Judge  # ``lpips_vector``
    pooled: Judge  # what sets of pictures are compared by
    lpips_name: str  # "LPIPS", or a name that says what stands in for it
    frechet_name: str  # "FID" only on Inception-2048
    kernel_name: str

    def look(self, images: Tensor) -> View:
        """All that is needed of images (B,3,H,W), in one pass of each network."""
        judges = (self.style, self.perceptual, self.pooled)
        layers: dict[Network, set[str]] = defaultdict(set)
        for judge in judges:
            layers[judge.network].update(judge.layers)
        features = {network: network(images, taps) for network, taps in layers.items()}
        return View(images, *(judge.vector(features[judge.network]) for judge in judges))


class Measured(NamedTuple):
    """Outputs beside their photos and paintings, by pair."""

    ssim: Tensor  # (N,)
    ssim_worst: Tensor  # (N,)
    lpips: Tensor  # (N,)
    style_gap: Tensor  # (N,)
    outputs: Tensor  # (N,D) by ``Judges.pooled``
    photos: Tensor  # (N,D) likewise


@dataclass(frozen=True)
class Scores:
    """What was measured over N pairs; None is n/a. Per-pair lists are in manifest order."""

    ssim: float
    ssim_worst: float  # mean of the worst tenth of positions
    lpips: float
    frechet: float | None  # to the held-out paintings
    kernel: float | None
    frechet_photos: float | None  # to the photos: a diagnostic, low when nothing happened
    style_gap: float
    pairs: int
    left_out: int  # pairs whose photo was already as close to the painting as the floor
    per_pair: dict[str, list[float]]


def measure(output: View, photo: View, style: Tensor) -> Measured:
    """Measure a batch of outputs; ``style`` (B,D) are the paintings by ``Judges.style``."""
    return Measured(
        *ssim_scores(output.images, photo.images),
        lpips(output.perceptual, photo.perceptual),
        style_gap_closed(output.style, photo.style, style),
        output.pooled,
        photo.pooled,
    )


def score(batches: Sequence[Measured], paintings: Tensor) -> Scores:
    """The scores of a method.

    Args:
        batches: its measured outputs, in manifest order.
        paintings: the reference paintings (R,D) by ``Judges.pooled``.
    """
    measured = Measured(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    columns = {name: getattr(measured, name).double().cpu() for name in PER_PAIR}
    valid = ~columns["style_gap"].isnan()
    return Scores(
        ssim=float(columns["ssim"].mean()),
        ssim_worst=float(columns["ssim_worst"].mean()),
        lpips=float(columns["lpips"].mean()),
        frechet=frechet_distance(measured.outputs, paintings),
        kernel=kernel_distance(measured.outputs, paintings),
        frechet_photos=frechet_distance(measured.outputs, measured.photos),
        style_gap=float(columns["style_gap"][valid].mean()),
        pairs=len(valid),
        left_out=int((~valid).sum()),
        per_pair={name: column.tolist() for name, column in columns.items()},
    )


def make_cards(judges: Judges, pairs: int, paintings: int, resolution: str) -> list[Card]:
    """The card of each figure in ``Scores``."""
    reference = f"{paintings} held-out paintings"
    pooled = judges.pooled.words
    small = "n/a unless both sets are larger than the feature dimension"
    photo = "the photo of each pair"
    return [
        Card("SSIM", "none", "", pairs, photo, resolution, "luminance, 11x11 Gaussian window"),
        Card(
            "SSIM worst tenth",
            "none",
            "",
            pairs,
            photo,
            resolution,
            "mean over the worst tenth of positions",
        ),
        Card(judges.lpips_name, *judges.perceptual.words, pairs, photo, resolution),
        Card(judges.frechet_name, *pooled, pairs, reference, resolution, small),
        Card(judges.kernel_name, *pooled, pairs, reference, resolution, "unbiased, whole sets"),
        Card(f"{judges.frechet_name} to photos", *pooled, pairs, "the photos", resolution, small),
        Card(
            "Style gap closed",
            *judges.style.words,
            pairs,
            "the painting of each pair",
            resolution,
        ),
    ]
