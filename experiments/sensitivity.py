"""How far losses and outputs move when a photo changes and its content does not: pure functions.

See ``robustness`` for what the figures mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.changes import CHANGES, change
from ..losses.content import ContentLoss, Features, pixel_loss
from ..metrics.perceptual import lpips, ssim_scores
from ..trainers.config import ContentConfig
from .statistics import Array, resampled_means

LOSS, SSIM, LPIPS = "content loss", "1 - SSIM", "LPIPS"
#: Figure -> what tables set the others beside: the plainest loss, the inputs themselves.
BASELINES = {LOSS: "pixel", SSIM: "identity", LPIPS: "identity"}

Encode = Callable[[Tensor], Features]
FeatureLoss = Callable[[Features, Features], Tensor]  # of two pictures' features -> (B,)
Painter = Callable[[Tensor], Tensor]  # photos (B,3,H,W) -> outputs
#: Figure -> loss or method -> (B,V): B photos, each in V views.
Figures = dict[str, dict[str, Tensor]]


class View(NamedTuple):
    """A way to look at a photo."""

    change: str
    severity: float


UNCHANGED, ANOTHER = View("unchanged", 0), View("another photo", 1)
#: The photo itself, another photo, and the photo after every change.
VIEWS = (
    UNCHANGED,
    ANOTHER,
    *(View(name, severity) for name, kind in CHANGES.items() for severity in kind.severities),
)


class Estimate(NamedTuple):
    """A mean over photos with its 95 % interval, by bootstrap over the photos."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A figure of one loss or method over the severities of one change, from 0 on."""

    figure: str  # one of ``BASELINES``
    change: str  # one of ``CHANGES``
    name: str  # of the loss or method
    severities: tuple[float, ...]
    points: tuple[Estimate, ...]
    area: Estimate  # the mean over the severities, by trapezoids
    beside: dict[str, Estimate]  # the area less that of each other one, paired by photo


@dataclass(frozen=True)
class Summary:
    """Everything that is reported."""

    curves: tuple[Curve, ...]
    another: dict[str, dict[str, Estimate]]  # figure -> name -> for another photo


def make_views(photos: Tensor, others: Tensor, seed: int, positions: Sequence[int]) -> list[Tensor]:
    """Photos (B,3,H,W) in all ``VIEWS``; ``positions`` are theirs in the set."""
    changed = [
        change(name, photos, severity, seed, positions)
        for name, severity in VIEWS
        if name in CHANGES
    ]
    return [photos, others, *changed]


def plain_losses(contents: Sequence[ContentConfig]) -> dict[str, FeatureLoss]:
    """The feature losses without attention: that of the most layers, and its heaviest layer's."""
    content = max(contents, key=lambda c: len(c.layers))
    heaviest, _ = max(content.layers, key=itemgetter(1))
    kinds = {f"single layer {heaviest}": ((heaviest, 1.0),), "multi-layer": content.layers}
    if len(content.layers) == 1:
        kinds.pop("multi-layer")
    return {
        name: feature_loss(ContentLoss(layers, content.normalization))
        for name, layers in kinds.items()
    }


def feature_loss(
    loss: ContentLoss,
    attention: Tensor | None = None,
    channels: Mapping[str, Tensor] | None = None,
) -> FeatureLoss:
    """A content loss with its weights, as a function of two pictures' features."""
    return lambda features, content: loss(
        loss.squared_errors(features, content), attention, channels
    )


def measure_losses(
    views: Sequence[Tensor], encode: Encode, losses: Mapping[str, FeatureLoss]
) -> dict[str, Tensor]:
    """Every loss between the photos, which are the first view, and each view: name -> (B,V).

    Each view goes through the encoder once for all of them; the pixel loss needs none.
    """
    photos, content = views[0], encode(views[0])

    def against(view: Tensor) -> dict[str, Tensor]:
        features = encode(view)
        feature = {name: loss(features, content) for name, loss in losses.items()}
        return {"pixel": pixel_loss(view, photos), **feature}

    columns = [against(view) for view in views]
    return {name: torch.stack([c[name] for c in columns], dim=1) for name in columns[0]}


def measure_outputs(
    views: Sequence[Tensor], painters: Mapping[str, Painter], perceive: Callable[[Tensor], Tensor]
) -> Figures:
    """How far each painter's outputs are from its outputs for the photos, the first view.

    ``perceive`` makes ``lpips_vector``s of images.
    """
    figures: Figures = {SSIM: {}, LPIPS: {}}
    for name, paint in painters.items():
        first = paint(views[0])
        vector = perceive(first)
        outputs = (paint(view) for view in views)  # one at a time: the vectors are large
        pairs = [
            (1 - ssim_scores(output, first)[0], lpips(perceive(output), vector))
            for output in outputs
        ]
        for figure, column in zip((SSIM, LPIPS), zip(*pairs, strict=True), strict=True):
            figures[figure][name] = torch.stack(column, dim=1)
    return figures


def joined(batches: Sequence[Figures]) -> dict[str, dict[str, Array]]:
    """The figures of all batches: figure -> name -> (N,V)."""
    return {
        figure: {
            name: torch.cat([batch[figure][name] for batch in batches]).double().cpu().numpy()
            for name in names
        }
        for figure, names in batches[0].items()
    }


def summarise(figures: Mapping[str, Mapping[str, Array]]) -> Summary:
    """Curves, areas and intervals of figure -> name -> (N,V).

    A loss is divided by its own mean for another photo, in each bootstrap sample anew.
    """
    samples = {
        figure: {name: _samples(values, figure == LOSS) for name, values in names.items()}
        for figure, names in figures.items()
    }
    curves = tuple(
        _curve(figure, kind, name, names)
        for figure, names in samples.items()
        for kind in CHANGES
        for name in names
    )
    another = VIEWS.index(ANOTHER)
    return Summary(
        curves,
        {
            figure: {name: _estimate(sample[another]) for name, sample in names.items()}
            for figure, names in samples.items()
        },
    )


def _samples(values: Array, relative: bool) -> Array:
    """Means over the photos of (N,V), then over bootstrap samples of them: (V,1+R)."""
    means = np.concatenate([values.mean(axis=0)[:, None], resampled_means(values.T)], axis=1)
    return means / means[VIEWS.index(ANOTHER)] if relative else means


def _curve(figure: str, kind: str, name: str, samples: Mapping[str, Array]) -> Curve:
    rows = [0, *(i for i, view in enumerate(VIEWS) if view.change == kind)]
    severities = tuple(VIEWS[i].severity for i in rows)
    areas = {key: area_under(severities, sample[rows]) for key, sample in samples.items()}
    points = tuple(_estimate(sample) for sample in samples[name][rows])
    beside = {key: _estimate(areas[name] - area) for key, area in areas.items() if key != name}
    return Curve(figure, kind, name, severities, points, _estimate(areas[name]), beside)


def area_under(severities: Sequence[float], values: Array) -> Array:
    """Mean over the severities by trapezoids, (S,...) -> (...): the area over the largest one."""
    widths = np.diff(severities)
    return np.tensordot(widths, (values[1:] + values[:-1]) / 2, axes=1) / sum(widths)


def _estimate(samples: Array) -> Estimate:
    """Of a mean, followed by those of the bootstrap samples."""
    low, high = np.percentile(samples[1:], [2.5, 97.5])
    return Estimate(float(samples[0]), float(low), float(high))
