"""Score outputs: pure functions of images, with the feature networks injected."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.encoder import Features
from .boundaries import boundaries_kept
from .cards import Card
from .distribution import MIN_IMAGES, MIN_OUTPUTS, frechet_distance, kernel_distance
from .perceptual import local_ssim, lpips, ssim_scores
from .saliency import salient_ssim
from .style_gap import MIN_DISTANCE, style_gap_closed

#: Metrics of a pair; from the fifth on, they are optional.
PER_PAIR = (
    "ssim", "ssim_worst", "lpips", "style_gap", "style_gap_independent", "boundaries",
    "ssim_salient", "ssim_center", "lpips_alex", "cfsd", "dists",
)  # fmt: skip

Network = Callable[[Tensor, Collection[str]], Features]  # images (B,3,H,W), layers -> features

#: Of N outputs: the available metrics of ``PER_PAIR`` (N,), NaN where undefined; ``image_id`` (N,);
#: and ``outputs``, ``outputs_independent``, ``art_outputs`` and ``art_paintings``, features (N,D).
PairMetrics = dict[str, Tensor]


@dataclass(frozen=True)
class FeatureExtractor:
    """A network and the function that turns its features into one vector (B,D) per image."""

    network: Network
    layers: Collection[str]
    vector: Callable[[Features], Tensor]  # ignores layers beyond ``layers``
    name: str  # network and layers, as printed in cards
    weights_sha256: str

    def __call__(self, images: Tensor) -> Tensor:
        return self.vector(self.network(images, self.layers))


@dataclass(frozen=True)
class SecondNetwork:
    """Extractors on a network not used in training, to detect overfitting to the encoder."""

    name: str  # as printed in column titles
    style: FeatureExtractor
    pooled: FeatureExtractor


@dataclass(frozen=True)
class PublishedDistance:
    """A distance of outputs to their photos that papers print, on a network of its own."""

    key: str  # in ``PairMetrics`` and ``Scores``
    title: str
    extract: Callable[[Tensor], Any]  # images (B,3,H,W) -> features
    compare: Callable[[Any, Any], Tensor]  # features of outputs and photos -> (B,)
    name: str  # network and layers, as printed in cards
    weights_sha256: str
    note: str = ""


class ExtractedFeatures(NamedTuple):
    """Images (B,3,H,W) and their feature vectors (B,D), in the order of ``MetricNetworks.all``."""

    images: Tensor
    style: Tensor
    perceptual: Tensor
    pooled: Tensor
    style_independent: Tensor | None = None
    pooled_independent: Tensor | None = None


@dataclass(frozen=True)
class MetricNetworks:
    """The feature extractors of all metrics, and the names of the metrics based on them."""

    style: FeatureExtractor  # ``style_vector``
    perceptual: FeatureExtractor  # ``lpips_vector``
    pooled: FeatureExtractor  # for distances between sets of images
    lpips_name: str  # "LPIPS" only on torchvision's ImageNet VGG16
    frechet_name: str  # "FID" only on Inception-2048
    kernel_name: str
    independent: SecondNetwork | None = None
    saliency: FeatureExtractor | None = None  # its "vector" is a map (B,1,H,W)
    published: Sequence[PublishedDistance] = ()
    art: FeatureExtractor | None = None  # ArtFID's Inception; given with ``lpips_alex`` only
    missing: Sequence[str] = ()  # published metrics without weights, as printed in notes

    @property
    def all(self) -> list[FeatureExtractor]:
        """Every extractor, in the order of ``ExtractedFeatures``."""
        second = [self.independent.style, self.independent.pooled] if self.independent else []
        return [self.style, self.perceptual, self.pooled, *second]

    def extract_features(self, images: Tensor) -> ExtractedFeatures:
        """Compute all vectors of images (B,3,H,W) with one forward pass per network."""
        layers: dict[Network, set[str]] = defaultdict(set)
        for extractor in self.all:
            layers[extractor.network].update(extractor.layers)
        features = {network: network(images, taps) for network, taps in layers.items()}
        return ExtractedFeatures(
            images, *(extractor.vector(features[extractor.network]) for extractor in self.all)
        )

    def style_features(self, paintings: Tensor) -> list[Tensor]:
        """Vectors (B,D) of the paintings (B,3,H,W) of pairs, the last arguments of
        ``pair_metrics``.
        """
        second = [self.independent.style] if self.independent else []
        return [extractor(paintings) for extractor in (self.style, *second)]

    def published_metrics(
        self, photos: Tensor, paintings: Tensor
    ) -> Callable[[Tensor], PairMetrics]:
        """Return the function from outputs to the ``PairMetrics`` that papers print.

        Features of photos and paintings, (B,3,H,W) each, are computed once for all methods.
        """
        known = [metric.extract(photos) for metric in self.published]
        art_paintings = self.art(paintings) if self.art else None

        def measure(outputs: Tensor) -> PairMetrics:
            pairs = zip(self.published, known, strict=True)
            found = {m.key: m.compare(m.extract(outputs), photo) for m, photo in pairs}
            if self.art and art_paintings is not None:
                found |= {"art_outputs": self.art(outputs), "art_paintings": art_paintings}
            return found

        return measure

    def reference_features(self, paintings: Tensor) -> list[Tensor]:
        """Vectors (B,D) of reference paintings (B,3,H,W), the last arguments of ``aggregate``."""
        second = [self.independent.pooled] if self.independent else []
        return [extractor(paintings) for extractor in (self.pooled, *second)]


@dataclass(frozen=True)
class Scores:
    """Scores of one method over N pairs; None: not available. Lists are in manifest order.

    Without a second network, drawn boundaries or a saliency network, their metrics are None and
    absent from ``per_pair``.
    """

    ssim: float
    ssim_worst: float  # mean of the worst tenth of positions
    lpips: float
    frechet: float | None  # to the reference paintings
    kernel: float | None  # to the reference paintings
    style_gap: float
    pairs: int
    outputs: int  # distinct ones, which the distances between sets are computed from
    left_out: int  # pairs without a style gap (NaN), excluded from its mean
    per_pair: dict[str, list[float]]
    photo: list[int]  # index of each pair's photo among the distinct ones, from 0
    painting: list[int]  # likewise
    kernel_independent: float | None = None
    style_gap_independent: float | None = None
    boundaries: float | None = None  # mean over the pairs that have a value
    ssim_salient: float | None = None  # weighted by the photo's saliency
    ssim_center: float | None = None  # control: weighted by a centered Gaussian as wide
    lpips_alex: float | None = None
    cfsd: float | None = None
    dists: float | None = None
    art_frechet: float | None = None  # of all outputs to the paintings of their pairs
    art_fid: float | None = None  # (1 + lpips_alex) · (1 + art_frechet)


def pair_metrics(
    output: ExtractedFeatures,
    photo: ExtractedFeatures,
    style: Tensor,
    style_independent: Tensor | None = None,
    *,
    drawn: Tensor | None = None,
    saliency: Tensor | None = None,
) -> PairMetrics:
    """Compute the metrics of a batch; ``style`` as from ``MetricNetworks.style_features``,
    ``drawn`` as for ``boundaries_kept``, and the photos' ``saliency`` as for ``salient_ssim``.
    """
    local = local_ssim(output.images, photo.images)
    ssim, worst = ssim_scores(local)
    metrics = {
        "ssim": ssim,
        "ssim_worst": worst,
        "lpips": lpips(output.perceptual, photo.perceptual),
        "style_gap": style_gap_closed(output.style, photo.style, style),
        "outputs": output.pooled,
        "image_id": image_ids(output.images),
    }
    if drawn is not None:
        metrics["boundaries"] = boundaries_kept(output.images, photo.images, drawn)
    if saliency is not None:
        metrics["ssim_salient"], metrics["ssim_center"] = salient_ssim(local, saliency)
    if style_independent is not None:
        a, b = output.style_independent, photo.style_independent
        assert a is not None
        assert b is not None
        assert output.pooled_independent is not None
        metrics["style_gap_independent"] = style_gap_closed(a, b, style_independent)
        metrics["outputs_independent"] = output.pooled_independent
    return metrics


def image_ids(images: Tensor) -> Tensor:
    """Return a number (B,) int64 per image (B,3,H,W) in [0,1]: a hash of its 8-bit values."""
    pixels = (images * 255).round().byte().cpu().contiguous().numpy()
    hashes = [hashlib.sha256(image.tobytes()).digest()[:8] for image in pixels]
    return torch.tensor([int.from_bytes(h, "big", signed=True) for h in hashes])


def aggregate(
    batches: Sequence[PairMetrics],
    photo: Sequence[int],
    painting: Sequence[int],
    paintings: Tensor | None = None,
    paintings_independent: Tensor | None = None,
) -> Scores:
    """Aggregate the metrics of all pairs of one method.

    Distances between sets count each distinct output once: repeated images would pass for variety,
    and bias KID, whose unbiased form excludes an image's similarity to itself.

    Args:
        batches: metrics of the pairs, in manifest order.
        photo, painting: as in ``Scores``.
        paintings, paintings_independent: distinct reference paintings (R,D), as from
            ``MetricNetworks.reference_features``.
    """
    metrics = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    columns = {name: metrics[name].cpu().double() for name in PER_PAIR if name in metrics}
    means = {name: float(column.nanmean()) for name, column in columns.items()}
    # The first of each group of equal outputs, in manifest order.
    ids = metrics["image_id"].tolist()
    distinct = sorted({image: i for i, image in reversed([*enumerate(ids)])}.values())

    def between(
        distance: Callable[[Tensor, Tensor], float | None], name: str, reference: Tensor | None
    ) -> float | None:
        if reference is None or name not in metrics:
            return None
        return distance(metrics[name][distinct], reference)

    alex, art = means.get("lpips_alex"), None
    if "art_outputs" in metrics:
        art = frechet_distance(metrics["art_outputs"], metrics["art_paintings"], MIN_IMAGES)
    return Scores(
        **means,
        frechet=between(frechet_distance, "outputs", paintings),
        kernel=between(kernel_distance, "outputs", paintings),
        kernel_independent=between(kernel_distance, "outputs_independent", paintings_independent),
        art_frechet=art,
        art_fid=None if alex is None or art is None else (1 + alex) * (1 + art),
        pairs=len(ids),
        outputs=len(distinct),
        left_out=int(columns["style_gap"].isnan().sum()),
        per_pair={name: column.tolist() for name, column in columns.items()},
        photo=list(photo),
        painting=list(painting),
    )


def make_cards(
    networks: MetricNetworks, scores: Mapping[str, Scores], references: int, resolution: str
) -> list[Card]:
    """Make a card for each metric of methods on the same pairs; equal outputs are noted."""
    pairs = max(method.pairs for method in scores.values())
    per_pair = next(iter(scores.values())).per_pair
    fewer = [f"{name} {m.outputs}" for name, m in scores.items() if m.outputs < pairs]

    def card(
        name: str, network: FeatureExtractor | PublishedDistance | None, reference: str,
        note: str = "", key: str = "",
    ) -> Card:  # fmt: skip
        """Make a card whose N leaves out pairs without a value of the metric ``key``."""
        count = pairs - sum(map(math.isnan, per_pair.get(key, ())))
        network_name, sha256 = (network.name, network.weights_sha256) if network else ("none", "")
        return Card(name, network_name, sha256, count, reference, resolution, note)

    photo, painting = "the photo of each pair", "the painting of each pair"
    paintings = f"{references} distinct paintings, none of them a style of a pair"
    once = "N counts each distinct output once" + (f" ({', '.join(fewer)})" if fewer else "")
    frechet = f"{once}; requires ≥ {MIN_OUTPUTS} outputs; biased by N: compare only equal N"
    kernel = f"{once}; unbiased, whole sets; requires ≥ {MIN_IMAGES} distinct images per set"
    gap = f"N counts pairs with a distance of at least {MIN_DISTANCE} from photo to painting"
    cards = [
        card("SSIM", None, photo, "luminance, 11x11 Gaussian window"),
        card("SSIM worst tenth", None, photo, "mean over the worst tenth of positions"),
        card(networks.lpips_name, networks.perceptual, photo),
        card(networks.frechet_name, networks.pooled, paintings, frechet),
        card(networks.kernel_name, networks.pooled, paintings, kernel),
        card("Style gap closed", networks.style, painting, gap, "style_gap"),
    ]
    if second := networks.independent:
        cards += [
            card(f"KID ({second.name})", second.pooled, paintings, kernel),
            card(
                f"Style gap closed ({second.name})",
                second.style,
                painting,
                gap,
                "style_gap_independent",
            ),
        ]
    if network := networks.saliency:
        center = "control: SSIM weighted by a centered Gaussian as wide as the saliency"
        cards += [
            card("SSIM salient", network, photo, "SSIM weighted by saliency above its median"),
            card("SSIM center", network, photo, center),
        ]
    cards += [card(metric.title, metric, photo, metric.note) for metric in networks.published]
    if network := networks.art:
        note = f"every pair counts; requires ≥ {MIN_IMAGES}; biased by N: compare only equal N"
        product = "(1 + LPIPS (AlexNet)) · (1 + FID (ArtFID))"
        cards += [card("FID (ArtFID)", network, "the paintings of all pairs", note)]
        cards += [card("ArtFID", network, "photos and paintings of all pairs", product)]
    if "boundaries" in per_pair:
        note = "correlation of gradient magnitudes near the drawn lines; N counts pairs with any"
        where = f"{photo}, where people drew edges"
        cards.append(card("Boundaries kept", None, where, note, "boundaries"))
    return cards
