"""Scoring outputs: pure functions of pictures, with the feature networks injected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cards import Card
from .distribution import frechet_distance, kernel_distance
from .perceptual import lpips, ssim_scores
from .style_gap import style_gap_closed

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Judges:
    """The networks that score, each with the words that say which it is.

    ``style`` maps images (B,3,H,W) to original-VGG16 features at ``style_gap``'s layers,
    ``perceptual`` to VGG16 features at ``LPIPS_LAYERS``, ``pooled`` to (B,D) vectors for the
    distances between sets.
    """

    style: Callable[[Tensor], Features]
    perceptual: Callable[[Tensor], Features]
    heads: list[Tensor]
    pooled: Callable[[Tensor], Tensor]
    style_network: tuple[str, str]  # name, weights' sha256
    perceptual_network: tuple[str, str]
    pooled_network: tuple[str, str]
    lpips_name: str  # "LPIPS", or a name that says what stands in for it
    frechet_name: str  # "FID" only on Inception-2048
    kernel_name: str


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


Batch = tuple[Tensor, Tensor, Tensor]  # stylized, content, style, each (B,3,S,S)


@torch.no_grad()
def score(batches: Sequence[Batch], paintings: Tensor, judges: Judges) -> Scores:
    """Score outputs against their photos and paintings.

    Args:
        batches: the outputs with what they were made from, in manifest order.
        paintings: features (R,D) of the reference paintings, by ``judges.pooled``.
        judges: the networks.
    """
    rows: dict[str, list[Tensor]] = {"ssim": [], "ssim_worst": [], "lpips": [], "style_gap": []}
    outputs, photos = [], []
    for stylized, content, style in batches:
        mean, worst = ssim_scores(stylized, content)
        rows["ssim"].append(mean)
        rows["ssim_worst"].append(worst)
        rows["lpips"].append(
            lpips(judges.perceptual(stylized), judges.perceptual(content), judges.heads)
        )
        gap = style_gap_closed(judges.style(stylized), judges.style(content), judges.style(style))
        rows["style_gap"].append(gap)
        outputs.append(judges.pooled(stylized))
        photos.append(judges.pooled(content))
    columns = {name: torch.cat(parts).double().cpu() for name, parts in rows.items()}
    valid = ~columns["style_gap"].isnan()
    features = torch.cat(outputs)
    return Scores(
        ssim=float(columns["ssim"].mean()),
        ssim_worst=float(columns["ssim_worst"].mean()),
        lpips=float(columns["lpips"].mean()),
        frechet=frechet_distance(features, paintings),
        kernel=kernel_distance(features, paintings),
        frechet_photos=frechet_distance(features, torch.cat(photos)),
        style_gap=float(columns["style_gap"][valid].mean()),
        pairs=len(valid),
        left_out=int((~valid).sum()),
        per_pair={name: column.tolist() for name, column in columns.items()},
    )


def make_cards(judges: Judges, pairs: int, paintings: int, resolution: str) -> list[Card]:
    """The card of each figure in ``Scores``."""
    reference = f"{paintings} held-out paintings"
    pooled, small = (
        judges.pooled_network,
        "n/a unless both sets are larger than the feature dimension",
    )
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
        Card(judges.lpips_name, *judges.perceptual_network, pairs, photo, resolution),
        Card(judges.frechet_name, *pooled, pairs, reference, resolution, small),
        Card(judges.kernel_name, *pooled, pairs, reference, resolution, "unbiased, whole sets"),
        Card(f"{judges.frechet_name} to photos", *pooled, pairs, "the photos", resolution, small),
        Card(
            "Style gap closed",
            *judges.style_network,
            pairs,
            "the painting of each pair",
            resolution,
        ),
    ]
