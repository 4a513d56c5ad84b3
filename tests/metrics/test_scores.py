import json
import math
from collections.abc import Collection
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor
from underdrawing.metrics.distribution import frechet_distance, kernel_distance
from underdrawing.metrics.perceptual import LPIPS_LAYERS, lpips, lpips_vector, ssim_scores
from underdrawing.metrics.scores import (
    FeatureExtractor,
    MetricNetworks,
    Network,
    Scores,
    SecondNetwork,
    aggregate,
    make_cards,
    pair_metrics,
)
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_gap_closed, style_vector

FIGURES = ("ssim", "ssim_worst", "lpips", "style_gap")
HEADS = [torch.ones(3)] * len(LPIPS_LAYERS)


def style_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: ACTIVATION_STD[layer] * images for layer in layers}


def plain_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return dict.fromkeys(layers, images)


def moments(features: dict[str, Tensor]) -> Tensor:
    return torch.cat([features["in"].mean(dim=(2, 3)), features["in"].std(dim=(2, 3))], dim=1)


JUDGES = MetricNetworks(
    style=FeatureExtractor(style_network, ACTIVATION_STD, style_vector, ("style net", "a" * 64)),
    perceptual=FeatureExtractor(
        plain_network, LPIPS_LAYERS, lambda x: lpips_vector(x, HEADS), ("perceptual net", "b" * 64)
    ),
    pooled=FeatureExtractor(plain_network, ["in"], moments, ("pooled net", "c" * 64)),
    lpips_name="LPIPS of a toy",
    frechet_name="Fréchet of a toy",
    kernel_name="KID of a toy",
)


def negative_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: 1 - images.square() for layer in layers}


def independent(network: Network = negative_network) -> SecondNetwork:
    scales = {"first": 0.1, "last": 0.2}
    return SecondNetwork(
        "second net",
        FeatureExtractor(
            network, scales, lambda x: style_vector(x, scales), ("second, style", "d" * 64)
        ),
        FeatureExtractor(
            network, ["last"], lambda x: x["last"].mean((2, 3)), ("second, pooled", "e" * 64)
        ),
    )


TWO = replace(JUDGES, independent=independent())


def pictures(count: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


CONTENT, STYLE = pictures(24, 0, 0.0, 0.5), pictures(24, 1, 0.4, 1.0)
STYLIZED = 0.5 * CONTENT + 0.5 * STYLE
PAINTINGS = JUDGES.pooled(pictures(24, 2, 0.4, 1.0))
PAIR = list(range(24))  # no picture comes twice


def score_in_batches(
    stylized: Tensor, size: int, content: Tensor = CONTENT, networks: MetricNetworks = JUDGES
) -> Scores:
    batches = zip(*(images.split(size) for images in (stylized, content, STYLE)), strict=True)
    measured = [
        pair_metrics(
            networks.extract_features(a), networks.extract_features(b), *networks.style_features(c)
        )
        for a, b, c in batches
    ]
    return aggregate(measured, PAIR, PAIR, *networks.reference_features(pictures(24, 2, 0.4, 1.0)))


def test_the_scores_are_the_metrics_over_all_pairs() -> None:
    scores = score_in_batches(STYLIZED, 24)
    mean, worst = ssim_scores(STYLIZED, CONTENT)
    distance = lpips(JUDGES.perceptual(STYLIZED), JUDGES.perceptual(CONTENT))
    gap = style_gap_closed(*(JUDGES.style(images) for images in (STYLIZED, CONTENT, STYLE)))
    for name, values in zip(FIGURES, (mean, worst, distance, gap), strict=True):
        assert scores.per_pair[name] == pytest.approx(values.tolist(), rel=1e-5)
        assert getattr(scores, name) == pytest.approx(values.mean().item(), rel=1e-5)
    outputs = JUDGES.pooled(STYLIZED)
    assert scores.frechet == pytest.approx(frechet_distance(outputs, PAINTINGS))
    assert scores.kernel == pytest.approx(kernel_distance(outputs, PAINTINGS))
    assert scores.frechet_photos == pytest.approx(frechet_distance(outputs, JUDGES.pooled(CONTENT)))
    assert (scores.pairs, scores.left_out) == (24, 0)
    assert not any(math.isnan(value) for column in scores.per_pair.values() for value in column)


def test_the_photo_itself_keeps_everything_and_closes_nothing() -> None:
    scores = score_in_batches(CONTENT, 8)
    assert scores.ssim == pytest.approx(1, abs=1e-6)
    assert scores.ssim_worst == pytest.approx(1, abs=1e-6)
    assert scores.lpips == 0
    assert scores.style_gap == 0
    assert scores.frechet_photos == pytest.approx(0, abs=1e-5)


def test_the_painting_itself_closes_the_gap() -> None:
    scores = score_in_batches(STYLE, 8)
    assert scores.style_gap == 1
    assert scores.ssim < 0.5
    assert scores.frechet is not None
    assert scores.frechet_photos is not None
    assert scores.frechet < scores.frechet_photos


@pytest.mark.parametrize("size", [1, 5, 7])
def test_batches_do_not_matter(size: int) -> None:
    whole, cut = (score_in_batches(STYLIZED, n) for n in (24, size))
    assert (cut.pairs, cut.left_out) == (whole.pairs, whole.left_out)
    for name in (*FIGURES, "frechet", "kernel", "frechet_photos"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=1e-4)
    for name in FIGURES:
        assert cut.per_pair[name] == pytest.approx(whole.per_pair[name], rel=1e-4)


def test_near_pairs_are_left_out_of_the_gap_alone_and_counted() -> None:
    content = CONTENT.clone()
    content[[3, 10]] = STYLE[[3, 10]]
    rest = torch.ones(24, dtype=torch.bool)
    rest[[3, 10]] = False
    scores = score_in_batches(STYLIZED, 6, content)
    assert (scores.pairs, scores.left_out) == (24, 2)
    gaps = torch.tensor(scores.per_pair["style_gap"])
    assert gaps.isnan().eq(~rest).all()
    assert scores.style_gap == pytest.approx(gaps[rest].mean().item(), rel=1e-5)
    assert scores.ssim == pytest.approx(ssim_scores(STYLIZED, content)[0].mean().item(), rel=1e-5)


def test_too_few_pictures_have_no_distances_between_sets() -> None:
    few = pair_metrics(JUDGES.look(STYLIZED[:5]), JUDGES.look(CONTENT[:5]), JUDGES.style(STYLE[:5]))
    scores = aggregate([few], PAIR[:5], PAIR[:5], PAINTINGS)
    assert scores.frechet is scores.kernel is scores.frechet_photos is None
    assert scores.ssim < 1


def score_all(photo: list[int], painting: list[int], references: int = 24) -> Scores:
    measured = pair_metrics(TWO.look(STYLIZED), TWO.look(CONTENT), *TWO.style_features(STYLE))
    kept = TWO.reference_features(pictures(references, 2, 0.4, 1.0))
    return aggregate([measured], photo, painting, *kept)


def test_repeated_photos_do_not_make_a_set_larger() -> None:
    distances = ("frechet", "kernel", "frechet_photos", "kernel_independent")
    twenty, twelve = [i % 20 for i in PAIR], [i // 2 for i in PAIR]
    enough, few = (score_all(photo, PAIR) for photo in (twenty, twelve))
    assert all(getattr(enough, name) is not None for name in distances)
    assert all(getattr(few, name) is None for name in distances)
    assert (few.ssim, few.per_pair) == (enough.ssim, enough.per_pair)
    same_painting = score_all(PAIR, [0] * 24)
    assert all(getattr(same_painting, name) == getattr(enough, name) for name in distances)


def test_few_reference_paintings_leave_the_distance_to_the_photos_alone() -> None:
    scores = score_all(PAIR, PAIR, references=19)
    assert scores.frechet is scores.kernel is scores.kernel_independent is None
    assert scores.frechet_photos is not None


def test_scores_say_which_pictures_each_pair_is_of() -> None:
    photo, painting = [0, 1] * 12, [0, 0, 1] * 8
    scores = score_all(photo, painting)
    assert (scores.photo, scores.painting) == (photo, painting)
    assert Scores(**json.loads(json.dumps(asdict(scores)))) == scores


class Counter:
    """A network that remembers what it was asked."""

    def __init__(self) -> None:
        self.passes: list[set[str]] = []

    def __call__(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        self.passes.append(set(layers))
        return plain_network(images, layers)


def with_networks(style: Network, perceptual: Network, pooled: Network) -> MetricNetworks:
    return replace(
        JUDGES,
        style=replace(JUDGES.style, network=style),
        perceptual=replace(JUDGES.perceptual, network=perceptual),
        pooled=replace(JUDGES.pooled, network=pooled),
    )


def test_judges_of_one_network_share_a_pass_over_all_their_layers() -> None:
    network = Counter()
    view = with_networks(network, network, network).look(CONTENT)
    assert network.passes == [{*ACTIVATION_STD, *LPIPS_LAYERS, "in"}]
    alone = with_networks(plain_network, plain_network, plain_network)
    assert torch.equal(view.images, CONTENT)
    for name in ("style", "perceptual", "pooled"):
        assert torch.equal(getattr(view, name), getattr(alone, name)(CONTENT))


def test_judges_of_different_networks_have_a_pass_each() -> None:
    vgg, imagenet, inception = Counter(), Counter(), Counter()
    with_networks(vgg, imagenet, inception).look(CONTENT)
    assert vgg.passes == [set(ACTIVATION_STD)]
    assert imagenet.passes == [set(LPIPS_LAYERS)]
    assert inception.passes == [{"in"}]


def test_a_judge_alone_asks_for_its_own_layers_only() -> None:
    network = Counter()
    with_networks(network, network, network).style(STYLE)
    assert network.passes == [set(ACTIVATION_STD)]


def test_the_cards_name_networks_sizes_and_references() -> None:
    cards = {card.name: card for card in make_cards(JUDGES, 48, 32, "64 px")}
    assert {name: (card.network, card.weights_sha256) for name, card in cards.items()} == {
        "SSIM": ("none", ""),
        "SSIM worst tenth": ("none", ""),
        "LPIPS of a toy": ("perceptual net", "b" * 64),
        "Fréchet of a toy": ("pooled net", "c" * 64),
        "KID of a toy": ("pooled net", "c" * 64),
        "Fréchet of a toy to photos": ("pooled net", "c" * 64),
        "Style gap closed": ("style net", "a" * 64),
    }
    assert {(card.pictures, card.resolution) for card in cards.values()} == {(48, "64 px")}
    for name in ("Fréchet", "KID"):
        assert "32 reference" in cards[f"{name} of a toy"].reference
        assert "n/a with fewer than 20 different photos" in cards[f"{name} of a toy"].note


def test_only_the_judges_decide_what_is_called_fid() -> None:
    named = [card.name for card in make_cards(replace(JUDGES, frechet_name="FID"), 48, 32, "")]
    assert "FID" in named
    assert not any("FID" in card.name for card in make_cards(JUDGES, 48, 32, ""))


def test_an_independent_network_judges_by_the_same_formulas() -> None:
    scores, second = score_in_batches(STYLIZED, 7, networks=TWO), independent()
    gap = style_gap_closed(*(second.style(images) for images in (STYLIZED, CONTENT, STYLE)))
    assert scores.per_pair["style_gap_independent"] == pytest.approx(gap.tolist(), rel=1e-5)
    assert scores.style_gap_independent == pytest.approx(gap.mean().item(), rel=1e-5)
    paintings = second.pooled(pictures(24, 2, 0.4, 1.0))
    expected = kernel_distance(second.pooled(STYLIZED), paintings)
    assert scores.kernel_independent == pytest.approx(expected)


def test_an_independent_network_changes_no_other_figure() -> None:
    alone, both = (score_in_batches(STYLIZED, 7, networks=networks) for networks in (JUDGES, TWO))
    assert alone.kernel_independent is alone.style_gap_independent is None
    per_pair = {name: both.per_pair[name] for name in alone.per_pair}
    both = replace(both, kernel_independent=None, style_gap_independent=None, per_pair=per_pair)
    assert both == alone


def test_the_controls_are_known_to_an_independent_network_too() -> None:
    assert score_in_batches(CONTENT, 8, networks=TWO).style_gap_independent == 0
    assert score_in_batches(STYLE, 8, networks=TWO).style_gap_independent == 1


def test_pairs_near_to_an_independent_network_are_left_out_of_its_gap() -> None:
    content = CONTENT.clone()
    content[3] = STYLE[3]
    gaps = score_in_batches(STYLIZED, 6, content, TWO).per_pair["style_gap_independent"]
    assert [i for i, gap in enumerate(gaps) if math.isnan(gap)] == [3]
    mean = score_in_batches(STYLIZED, 6, content, TWO).style_gap_independent
    assert mean == pytest.approx(sum(gaps[:3] + gaps[4:]) / 23)


def test_an_independent_network_has_one_pass_a_picture() -> None:
    network = Counter()
    networks = replace(JUDGES, independent=independent(network))
    networks.extract_features(CONTENT)
    assert network.passes == [{"first", "last"}]


def test_scores_without_an_independent_network_still_load() -> None:
    kept = asdict(score_in_batches(STYLIZED, 24))
    del kept["kernel_independent"], kept["style_gap_independent"]
    assert Scores(**json.loads(json.dumps(kept))) == score_in_batches(STYLIZED, 24)


def test_the_cards_of_an_independent_network_name_it() -> None:
    cards = make_cards(TWO, 48, 32, "64 px")
    assert cards[:-2] == make_cards(JUDGES, 48, 32, "64 px")
    assert [(card.name, card.network, card.weights_sha256) for card in cards[-2:]] == [
        ("KID (second net)", "second, pooled", "e" * 64),
        ("Style gap closed (second net)", "second, style", "d" * 64),
    ]
    assert "fewer than 20 different photos" in cards[-2].note
    assert [card.reference for card in cards[-2:]] == [
        "32 reference paintings",
        "the painting of each pair",
    ]
