"""Scoring outputs: pure functions of pictures, with the feature networks injected."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cards import Card
from .distribution import MIN_PICTURES, frechet_distance, kernel_distance
from .perceptual import lpips, ssim_scores
from .style_gap import style_gap_closed

PER_PAIR = ("ssim", "ssim_worst", "lpips", "style_gap", "style_gap_independent")

Features = dict[str, Tensor]
Network = Callable[[Tensor, Collection[str]], Features]  # images (B,3,H,W), layers -> features


@dataclass(frozen=True)
class FeatureExtractor:
    """A network and the vector (B,D) that is made of its features; call it on images (B,3,H,W)."""

    network: Network
    layers: Collection[str]
    vector: Callable[[Features], Tensor]  # may be given more layers than its own
    words: tuple[str, str]  # the network's name, its weights' sha256

    def __call__(self, images: Tensor) -> Tensor:
        return self.vector(self.network(images, self.layers))


@dataclass(frozen=True)
class SecondNetwork:
    """A second network's judges: what the network that trained likes need not please it."""

    name: str  # of the network, as columns print it
    style: FeatureExtractor
    pooled: FeatureExtractor


class ExtractedFeatures(NamedTuple):
    """Images (B,3,H,W) with the vector (B,D) that each judge makes of them."""

    images: Tensor
    style: Tensor
    perceptual: Tensor
    pooled: Tensor
    style_independent: Tensor | None = None
    pooled_independent: Tensor | None = None


@dataclass(frozen=True)
class MetricNetworks:
    """The networks that score, and what their figures are called."""

    style: FeatureExtractor  # ``style_vector``
    perceptual: FeatureExtractor  # ``lpips_vector``
    pooled: FeatureExtractor  # what sets of pictures are compared by
    lpips_name: str  # "LPIPS", or a name that says what stands in for it
    frechet_name: str  # "FID" only on Inception-2048
    kernel_name: str
    independent: SecondNetwork | None = None

    @property
    def all(self) -> list[FeatureExtractor]:
        """Every judge, in the order of ``View``."""
        others = [self.independent.style, self.independent.pooled] if self.independent else []
        return [self.style, self.perceptual, self.pooled, *others]

    def extract_features(self, images: Tensor) -> ExtractedFeatures:
        """All that is needed of images (B,3,H,W), in one pass of each network."""
        layers: dict[Network, set[str]] = defaultdict(set)
        for extractor in self.all:
            layers[extractor.network].update(extractor.layers)
        features = {network: network(images, taps) for network, taps in layers.items()}
        return ExtractedFeatures(
            images, *(extractor.vector(features[extractor.network]) for extractor in self.all)
        )

    def style_features(self, paintings: Tensor) -> list[Tensor]:
        """What ``measure`` wants of the paintings (B,3,H,W) of pairs, (B,D) by style judge."""
        other = [self.independent.style] if self.independent else []
        return [extractor(paintings) for extractor in (self.style, *other)]

    def reference_features(self, paintings: Tensor) -> list[Tensor]:
        """What ``score`` wants of the reference paintings (B,3,H,W), (B,D) by pooled judge."""
        other = [self.independent.pooled] if self.independent else []
        return [extractor(paintings) for extractor in (self.pooled, *other)]


class PairMetrics(NamedTuple):
    """Outputs beside their photos and paintings, by pair."""

    ssim: Tensor  # (N,)
    ssim_worst: Tensor  # (N,)
    lpips: Tensor  # (N,)
    style_gap: Tensor  # (N,)
    outputs: Tensor  # (N,D) by ``Judges.pooled``
    photos: Tensor  # (N,D) likewise
    style_gap_independent: Tensor | None = None  # (N,)
    outputs_independent: Tensor | None = None  # (N,D) by ``Independent.pooled``


@dataclass(frozen=True)
class Scores:
    """What was measured over N pairs; None is n/a. Per-pair lists are in manifest order.

    The figures of the independent network are None where there is none, and not in ``per_pair``.
    """

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
    photo: list[int]  # the number of each pair's photo among the different ones, from 0 on
    painting: list[int]  # likewise
    kernel_independent: float | None = None
    style_gap_independent: float | None = None


def pair_metrics(
    output: ExtractedFeatures,
    photo: ExtractedFeatures,
    style: Tensor,
    style_independent: Tensor | None = None,
) -> PairMetrics:
    """Measure a batch of outputs; the paintings (B,D) are given as ``Judges.goals``."""
    measured = PairMetrics(
        *ssim_scores(output.images, photo.images),
        lpips(output.perceptual, photo.perceptual),
        style_gap_closed(output.style, photo.style, style),
        output.pooled,
        photo.pooled,
    )
    if style_independent is None:
        return measured
    assert output.style_independent is not None
    assert photo.style_independent is not None
    gap = style_gap_closed(output.style_independent, photo.style_independent, style_independent)
    return measured._replace(
        style_gap_independent=gap, outputs_independent=output.pooled_independent
    )


def aggregate(
    batches: Sequence[PairMetrics],
    photo: Sequence[int],
    painting: Sequence[int],
    paintings: Tensor,
    paintings_independent: Tensor | None = None,
) -> Scores:
    """The scores of a method.

    Args:
        batches: its measured outputs, in manifest order.
        photo, painting: as in ``Scores``.
        paintings, paintings_independent: the reference paintings (R,D), all different, as
            ``Judges.references``.
    """
    by_field = zip(*batches, strict=True)
    measured = PairMetrics(*(torch.cat(parts) for parts in by_field if parts[0] is not None))
    by_name = {name: getattr(measured, name) for name in PER_PAIR}
    columns = {name: x.double().cpu() for name, x in by_name.items() if x is not None}
    valid, other_gap = ~columns["style_gap"].isnan(), columns.get("style_gap_independent")
    # However many outputs a photo has, they are not so many pictures.
    enough = len(set(photo)) >= MIN_PICTURES

    def between(
        distance: Callable[[Tensor, Tensor], float | None], a: Tensor | None, b: Tensor | None
    ) -> float | None:
        return distance(a, b) if enough and a is not None and b is not None else None

    return Scores(
        ssim=float(columns["ssim"].mean()),
        ssim_worst=float(columns["ssim_worst"].mean()),
        lpips=float(columns["lpips"].mean()),
        frechet=between(frechet_distance, measured.outputs, paintings),
        kernel=between(kernel_distance, measured.outputs, paintings),
        frechet_photos=between(frechet_distance, measured.outputs, measured.photos),
        style_gap=float(columns["style_gap"][valid].mean()),
        pairs=len(valid),
        left_out=int((~valid).sum()),
        per_pair={name: column.tolist() for name, column in columns.items()},
        photo=list(photo),
        painting=list(painting),
        kernel_independent=between(
            kernel_distance, measured.outputs_independent, paintings_independent
        ),
        style_gap_independent=None if other_gap is None else float(other_gap.nanmean()),
    )


def make_cards(networks: MetricNetworks, pairs: int, paintings: int, resolution: str) -> list[Card]:
    """The card of each figure in ``Scores``."""
    reference = f"{paintings} reference paintings"
    pooled = networks.pooled.words
    few = f"n/a with fewer than {MIN_PICTURES} different photos or paintings"
    small = f"{few}, or unless both sets are larger than the feature dimension"
    whole = f"unbiased, whole sets; {few}"
    photo, painting = "the photo of each pair", "the painting of each pair"
    cards = [
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
        Card(networks.lpips_name, *networks.perceptual.words, pairs, photo, resolution),
        Card(networks.frechet_name, *pooled, pairs, reference, resolution, small),
        Card(networks.kernel_name, *pooled, pairs, reference, resolution, whole),
        Card(f"{networks.frechet_name} to photos", *pooled, pairs, "the photos", resolution, small),
        Card("Style gap closed", *networks.style.words, pairs, painting, resolution),
    ]
    if other := networks.independent:
        cards += [
            Card(f"KID ({other.name})", *other.pooled.words, pairs, reference, resolution, whole),
            Card(
                f"Style gap closed ({other.name})", *other.style.words, pairs, painting, resolution
            ),
        ]
    return cards
