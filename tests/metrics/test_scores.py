import json
import math
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from underdrawing.metrics import distribution
from underdrawing.metrics.distribution import frechet_distance, kernel_distance
from underdrawing.metrics.perceptual import (
    LPIPS_LAYERS,
    local_ssim,
    lpips,
    lpips_vector,
    ssim_scores,
)
from underdrawing.metrics.saliency import salient_ssim
from underdrawing.metrics.scores import (
    FeatureExtractor,
    MetricNetworks,
    PairMetrics,
    PublishedDistance,
    Scores,
    SecondNetwork,
    aggregate,
    make_cards,
    pair_metrics,
)
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_gap_closed, style_vector

METRICS = ("ssim", "ssim_worst", "lpips", "style_gap")
HEADS = [torch.ones(3)] * len(LPIPS_LAYERS)


def style_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: ACTIVATION_STD[layer] * images for layer in layers}


def plain_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return dict.fromkeys(layers, images)


def second_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: 1 - images.square() for layer in layers}


def moments(features: dict[str, Tensor]) -> Tensor:
    return torch.cat([features["in"].mean(dim=(2, 3)), features["in"].std(dim=(2, 3))], dim=1)


def make_networks(**others: Any) -> MetricNetworks:
    return MetricNetworks(
        FeatureExtractor(style_network, ACTIVATION_STD, style_vector, "style net", "a"),
        FeatureExtractor(
            plain_network, LPIPS_LAYERS, lambda x: lpips_vector(x, HEADS), "perceptual net", "b"
        ),
        FeatureExtractor(plain_network, ["in"], moments, "pooled net", "c"),
        lpips_name="toy LPIPS", frechet_name="toy Fréchet", kernel_name="toy KID", **others,
    )  # fmt: skip


SCALES = {"first": 0.1, "last": 0.2}
SECOND = SecondNetwork(
    "second net",
    FeatureExtractor(second_network, SCALES, lambda x: style_vector(x, SCALES), "style 2", "d"),
    FeatureExtractor(second_network, ["last"], lambda x: x["last"].mean((2, 3)), "pooled 2", "e"),
)
ONE, TWO = make_networks(), make_networks(independent=SECOND)


def make_images(count: int, seed: int, low: float, high: float) -> Tensor:
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


CONTENT, STYLE = make_images(24, 0, 0.0, 0.5), make_images(24, 1, 0.4, 1.0)
STYLIZED = 0.5 * CONTENT + 0.5 * STYLE
REFERENCES = make_images(24, 2, 0.4, 1.0)
DISTINCT = list(range(24))


def measure(networks: MetricNetworks, content: Tensor = CONTENT, **given: Tensor) -> PairMetrics:
    """Metrics of ``STYLIZED``, measured in batches of 7."""
    measured = [
        pair_metrics(
            networks.extract_features(STYLIZED[i : i + 7]),
            networks.extract_features(content[i : i + 7]),
            *networks.style_features(STYLE[i : i + 7]),
            **{name: x[i : i + 7] for name, x in given.items()},
        )
        for i in range(0, 24, 7)
    ]
    return {name: torch.cat([batch[name] for batch in measured]) for name in measured[0]}


def score(
    content: Tensor = CONTENT,
    networks: MetricNetworks = TWO,
    photo: list[int] = DISTINCT,
    painting: list[int] = DISTINCT,
) -> Scores:
    paintings = networks.reference_features(REFERENCES)
    return aggregate([measure(networks, content)], photo, painting, *paintings)


def test_scores_are_the_metrics_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "MIN_OUTPUTS", 24)
    scores = score()
    mean, worst = ssim_scores(local_ssim(STYLIZED, CONTENT))
    distance = lpips(ONE.perceptual(STYLIZED), ONE.perceptual(CONTENT))
    gap = style_gap_closed(*(ONE.style(images) for images in (STYLIZED, CONTENT, STYLE)))
    for name, values in zip(METRICS, (mean, worst, distance, gap), strict=True):
        assert scores.per_pair[name] == pytest.approx(values.tolist(), rel=1e-5)
        assert getattr(scores, name) == pytest.approx(values.mean().item(), rel=1e-5)
    outputs, paintings = ONE.pooled(STYLIZED), ONE.pooled(REFERENCES)
    assert scores.frechet is not None
    assert scores.frechet == pytest.approx(frechet_distance(outputs, paintings))
    assert scores.kernel == pytest.approx(kernel_distance(outputs, paintings))
    assert (scores.pairs, scores.outputs, scores.left_out) == (24, 24, 0)


def test_second_network_scores_with_the_same_formulas() -> None:
    scores = score()
    gap = style_gap_closed(*(SECOND.style(images) for images in (STYLIZED, CONTENT, STYLE)))
    assert scores.per_pair["style_gap_independent"] == pytest.approx(gap.tolist(), rel=1e-5)
    assert scores.style_gap_independent == pytest.approx(gap.mean().item(), rel=1e-5)
    expected = kernel_distance(SECOND.pooled(STYLIZED), SECOND.pooled(REFERENCES))
    assert scores.kernel_independent == pytest.approx(expected)


def test_pairs_without_a_style_gap_are_excluded_from_its_mean_only() -> None:
    content = CONTENT.clone()
    content[[3, 10]] = STYLE[[3, 10]]
    scores = score(content=content)
    assert (scores.pairs, scores.left_out) == (24, 2)
    for name in ("style_gap", "style_gap_independent"):
        gaps = scores.per_pair[name]
        assert [i for i, gap in enumerate(gaps) if math.isnan(gap)] == [3, 10]
        mean = sum(gap for gap in gaps if not math.isnan(gap)) / 22
        assert getattr(scores, name) == pytest.approx(mean, rel=1e-5)
    mean = local_ssim(STYLIZED, content).mean().item()
    assert scores.ssim == pytest.approx(mean, rel=1e-5)
    cards = {card.name: card for card in make_cards(TWO, {"row": scores}, 32, "64 px")}
    for name in ("Style gap closed", "Style gap closed (second net)"):
        assert cards[name].images == 22
        assert "N counts pairs with a distance of at least 0.1" in cards[name].note
    assert cards["SSIM"].images == 24


def test_each_distinct_output_counts_once_in_distances_between_sets() -> None:
    """Repeated outputs are no variety: they change neither distance nor N."""

    def kernel(*parts: Tensor) -> Scores:
        outputs = torch.cat(parts)
        features, ids = ONE.extract_features(outputs), list(range(len(outputs)))
        metrics = pair_metrics(features, features, ONE.style(REFERENCES[: len(outputs)]))
        return aggregate([metrics], ids, ids, ONE.pooled(REFERENCES))

    once, repeated = kernel(STYLIZED[:20]), kernel(STYLIZED[:20], STYLIZED[:4])
    assert once.kernel is not None
    assert repeated.kernel == pytest.approx(once.kernel)
    assert (once.outputs, repeated.outputs, repeated.pairs) == (20, 20, 24)
    assert kernel(STYLIZED[:19], STYLIZED[:1]).kernel is None


def test_scores_survive_json_also_without_the_fields_of_a_second_network() -> None:
    scores = score(networks=ONE, photo=[0, 1] * 12, painting=[0, 0, 1] * 8)
    assert (scores.photo, scores.painting) == ([0, 1] * 12, [0, 0, 1] * 8)
    stored = json.loads(json.dumps(asdict(scores)))
    assert Scores(**stored) == scores
    del stored["kernel_independent"], stored["style_gap_independent"]
    assert Scores(**stored) == scores


def test_boundaries_are_averaged_over_the_pairs_that_have_them() -> None:
    drawn = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn[[2, 9]] = torch.nan
    scores = aggregate([measure(ONE, drawn=drawn)], DISTINCT, DISTINCT)
    kept = scores.per_pair["boundaries"]
    assert [i for i, value in enumerate(kept) if math.isnan(value)] == [2, 9]
    mean = sum(value for value in kept if not math.isnan(value)) / 22
    assert scores.boundaries == pytest.approx(mean)
    card = make_cards(ONE, {"row": scores}, 0, "64 px")[-1]
    assert (card.name, card.images) == ("Boundaries kept", 22)


def test_saliency_network_adds_ssim_where_people_look_and_its_control() -> None:
    extractor = FeatureExtractor(plain_network, ["map"], lambda x: x["map"][:, :1], "salient", "f")
    networks, saliency = make_networks(saliency=extractor), extractor(CONTENT)
    scores = aggregate([measure(networks, saliency=saliency)], DISTINCT, DISTINCT)
    expected = salient_ssim(local_ssim(STYLIZED, CONTENT), saliency)
    for name, values in zip(("ssim_salient", "ssim_center"), expected, strict=True):
        assert scores.per_pair[name] == pytest.approx(values.tolist())
        assert getattr(scores, name) == pytest.approx(values.mean().item())
    cards = make_cards(networks, {"row": scores}, 0, "64 px")[-2:]
    assert [(card.name, card.network, card.weights_sha256) for card in cards] == [
        ("SSIM salient", "salient", "f"), ("SSIM center", "salient", "f"),
    ]  # fmt: skip


def test_artfid_is_the_product_of_content_and_style_over_all_pairs() -> None:
    def difference(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))

    alex = PublishedDistance("lpips_alex", "LPIPS (AlexNet)", torch.clone, difference, "alex", "g")
    art = FeatureExtractor(plain_network, ["in"], moments, "art", "h")
    networks = make_networks(published=[alex], art=art)
    fields = networks.published_metrics(CONTENT, STYLE)(STYLIZED)
    metrics = measure(networks) | fields
    scores = aggregate([metrics], DISTINCT, DISTINCT)
    content = difference(STYLIZED, CONTENT).mean().item()
    fid = frechet_distance(moments({"in": STYLIZED}), moments({"in": STYLE}), 20)
    assert fid is not None
    assert scores.art_frechet == pytest.approx(fid, rel=1e-5)
    assert scores.art_fid == pytest.approx((1 + content) * (1 + fid), rel=1e-5)
    names = [card.name for card in make_cards(networks, {"row": scores}, 0, "64 px")]
    assert names[-3:] == ["LPIPS (AlexNet)", "FID (ArtFID)", "ArtFID"]
    fewer = metrics | {"art_outputs": fields["art_outputs"][:19]}
    assert aggregate([fewer], DISTINCT, DISTINCT).art_fid is None


def test_cards_name_networks_weights_and_references() -> None:
    one = score()
    reference = "32 distinct paintings, none of them a style of a pair"
    methods = {"row": replace(one, pairs=48, outputs=48), "same": replace(one, pairs=48, outputs=1)}
    cards = make_cards(TWO, methods, 32, "64 px")
    assert [(card.name, card.network, card.weights_sha256, card.reference) for card in cards] == [
        ("SSIM", "none", "", "the photo of each pair"),
        ("SSIM worst tenth", "none", "", "the photo of each pair"),
        ("toy LPIPS", "perceptual net", "b", "the photo of each pair"),
        ("toy Fréchet", "pooled net", "c", reference),
        ("toy KID", "pooled net", "c", reference),
        ("Style gap closed", "style net", "a", "the painting of each pair"),
        ("KID (second net)", "pooled 2", "e", reference),
        ("Style gap closed (second net)", "style 2", "d", "the painting of each pair"),
    ]
    assert {(card.images, card.resolution) for card in cards} == {(48, "64 px")}
    counted = [card.name for card in cards if "each distinct output once (same 1)" in card.note]
    assert counted == ["toy Fréchet", "toy KID", "KID (second net)"]
    assert make_cards(ONE, methods, 32, "64 px") == cards[:-2]
