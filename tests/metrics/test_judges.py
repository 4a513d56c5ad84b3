import math
from collections.abc import Collection
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from underdrawing.metrics.distribution import frechet_distance, kernel_distance
from underdrawing.metrics.judges import Judge, Judges, Network, Scores, make_cards, measure, score
from underdrawing.metrics.perceptual import LPIPS_LAYERS, lpips, lpips_vector, ssim_scores
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_gap_closed, style_vector

FIGURES = ("ssim", "ssim_worst", "lpips", "style_gap")
HEADS = [torch.ones(3)] * len(LPIPS_LAYERS)


def style_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: ACTIVATION_STD[layer] * images for layer in layers}


def plain_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return dict.fromkeys(layers, images)


def moments(features: dict[str, Tensor]) -> Tensor:
    return torch.cat([features["in"].mean(dim=(2, 3)), features["in"].std(dim=(2, 3))], dim=1)


JUDGES = Judges(
    style=Judge(style_network, ACTIVATION_STD, style_vector, ("style net", "a" * 64)),
    perceptual=Judge(
        plain_network, LPIPS_LAYERS, lambda x: lpips_vector(x, HEADS), ("perceptual net", "b" * 64)
    ),
    pooled=Judge(plain_network, ["in"], moments, ("pooled net", "c" * 64)),
    lpips_name="LPIPS of a toy",
    frechet_name="Fréchet of a toy",
    kernel_name="KID of a toy",
)


def pictures(count: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


CONTENT, STYLE = pictures(24, 0, 0.0, 0.5), pictures(24, 1, 0.4, 1.0)
STYLIZED = 0.5 * CONTENT + 0.5 * STYLE
PAINTINGS = JUDGES.pooled(pictures(24, 2, 0.4, 1.0))


def score_in_batches(stylized: Tensor, size: int, content: Tensor = CONTENT) -> Scores:
    batches = zip(*(images.split(size) for images in (stylized, content, STYLE)), strict=True)
    measured = [measure(JUDGES.look(a), JUDGES.look(b), JUDGES.style(c)) for a, b, c in batches]
    return score(measured, PAINTINGS)


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
    few = measure(JUDGES.look(STYLIZED[:5]), JUDGES.look(CONTENT[:5]), JUDGES.style(STYLE[:5]))
    scores = score([few], PAINTINGS)
    assert scores.frechet is scores.kernel is scores.frechet_photos is None
    assert scores.ssim < 1


class Counter:
    """A network that remembers what it was asked."""

    def __init__(self) -> None:
        self.passes: list[set[str]] = []

    def __call__(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        self.passes.append(set(layers))
        return plain_network(images, layers)


def with_networks(style: Network, perceptual: Network, pooled: Network) -> Judges:
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
    assert all("32 held-out" in cards[f"{name} of a toy"].reference for name in ("Fréchet", "KID"))


def test_only_the_judges_decide_what_is_called_fid() -> None:
    named = [card.name for card in make_cards(replace(JUDGES, frechet_name="FID"), 48, 32, "")]
    assert "FID" in named
    assert not any("FID" in card.name for card in make_cards(JUDGES, 48, 32, ""))
