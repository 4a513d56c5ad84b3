from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from underdrawing.data.changes import CHANGES
from underdrawing.experiments.sensitivity import (
    ANOTHER,
    LOSS,
    LPIPS,
    SSIM,
    UNCHANGED,
    VIEWS,
    area_under,
    feature_loss,
    joined,
    make_views,
    measure_losses,
    measure_outputs,
    plain_losses,
    summarise,
)
from underdrawing.losses.content import ContentLoss, pixel_loss
from underdrawing.trainers.config import ContentConfig

UNCHANGED_AT, ANOTHER_AT = VIEWS.index(UNCHANGED), VIEWS.index(ANOTHER)
MULTI = ContentConfig(layers=(("a", 0.2), ("b", 0.8)), normalization="none")


def encode(images: Tensor) -> dict[str, Tensor]:
    """A toy: the picture itself, and its horizontal differences, which no brightness moves."""
    return {"a": images, "b": images.diff(dim=-1)}


def perceive(images: Tensor) -> Tensor:
    return images.flatten(1)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Five smooth pictures without black or white."""
    coarse = torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return 0.2 + 0.3 * torch.nn.functional.interpolate(coarse, (20, 20), mode="bilinear")


@pytest.fixture(scope="module")
def views(photos: Tensor) -> list[Tensor]:
    return make_views(photos, photos.roll(-1, 0), seed=0, positions=range(5))


def values(**columns: list[float]) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
    """Figures of losses that are, for each photo, a constant times the severity."""
    rows = {
        name: np.array([[s * scale for _, s in VIEWS] for scale in scales])
        for name, scales in columns.items()
    }
    return {LOSS: rows}


def test_views_are_the_photo_another_one_and_every_change(
    photos: Tensor, views: list[Tensor]
) -> None:
    assert len(views) == len(VIEWS) == 2 + sum(len(kind.severities) for kind in CHANGES.values())
    assert torch.equal(views[UNCHANGED_AT], photos)
    assert torch.equal(views[ANOTHER_AT][0], photos[1])
    assert all(not torch.equal(view, photos) for view in views[1:])


def test_plain_losses_are_all_layers_and_the_heaviest_one() -> None:
    single = ContentConfig(layers=(("a", 1.0),))
    assert list(plain_losses([single, MULTI])) == ["single layer b", "multi-layer"]
    assert list(plain_losses([single])) == ["single layer a"]


def test_losses_are_those_of_the_loss_classes(photos: Tensor, views: list[Tensor]) -> None:
    attention = torch.rand(5, 1, 20, 20)
    weighted = feature_loss(ContentLoss((("a", 1.0),), "none"), attention)
    losses = measure_losses(views, encode, plain_losses([MULTI]) | {"attended": weighted})
    view = views[ANOTHER_AT]
    pixel, single = pixel_loss(view, photos), pixel_loss(view.diff(dim=-1), photos.diff(dim=-1))
    expected = {
        "pixel": pixel,
        "single layer b": single,
        "multi-layer": 0.2 * pixel + 0.8 * single,
        "attended": (attention * (view - photos).square()).mean((1, 2, 3)),
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.shape == (5, len(VIEWS))
        torch.testing.assert_close(loss[:, ANOTHER_AT], expected[name])


def test_an_unchanged_photo_has_loss_zero_and_another_photo_one(views: list[Tensor]) -> None:
    losses = measure_losses(views, encode, plain_losses([MULTI]))
    summary = summarise(joined([{LOSS: losses}]))
    assert all(estimate == (1, 1, 1) for estimate in summary.another[LOSS].values())
    for curve in summary.curves:
        assert (curve.severities[0], curve.points[0]) == (0, (0, 0, 0))
        assert curve.points[-1].mean > 0 or (curve.name, curve.change) == (
            "single layer b", "brightness",
        )  # fmt: skip


def test_a_loss_that_does_not_see_the_light_is_the_more_robust_one(views: list[Tensor]) -> None:
    losses = measure_losses(views, encode, plain_losses([MULTI]))
    curves = {(c.name, c.change): c for c in summarise(joined([{LOSS: losses}])).curves}
    differences = curves["single layer b", "brightness"]
    assert differences.points[-1].mean == pytest.approx(0, abs=1e-6)
    assert differences.beside["pixel"].high < 0
    assert curves["pixel", "brightness"].beside["single layer b"].low > 0
    assert curves["single layer b", "noise"].beside["pixel"].low > 0


def test_outputs_are_compared_with_those_for_the_photo(views: list[Tensor]) -> None:
    painters = {
        "identity": lambda x: x,
        "half": lambda x: x / 2,
        "blind": lambda x: torch.full_like(x, 0.5),
    }
    figures = measure_outputs(views, painters, perceive)
    for figure in (SSIM, LPIPS):
        measured = figures[figure]
        assert all(column.shape == (5, len(VIEWS)) for column in measured.values())
        assert measured["identity"][:, UNCHANGED_AT].abs().max() < 1e-6
        assert measured["identity"][:, 1:].min() > 0
        assert measured["blind"].abs().max() < 1e-6
    torch.testing.assert_close(figures[LPIPS]["half"], figures[LPIPS]["identity"] / 4)
    summary = summarise(joined([figures]))
    assert all(
        c.beside["identity"].high < 0
        for c in summary.curves
        if (c.figure, c.name) == (LPIPS, "half")
    )


def test_batches_are_joined_in_order() -> None:
    first, second = torch.rand(2, 3), torch.rand(1, 3)
    both = joined([{LOSS: {"pixel": first}}, {LOSS: {"pixel": second}}])
    np.testing.assert_allclose(both[LOSS]["pixel"], torch.cat([first, second]))


def test_the_area_is_the_mean_over_the_severities() -> None:
    assert area_under([0, 1, 4], np.array([0.0, 1.0, 4.0])) == pytest.approx(2)
    np.testing.assert_allclose(area_under([0, 2], np.array([[1.0, 0.0], [1.0, 3.0]])), [1, 1.5])


def test_interval_is_over_photos_and_the_difference_is_paired() -> None:
    figures = values(pixel=[1, 2, 3, 4, 5, 6], other=[1, 2, 3, 4, 5, 6], wild=[1, 1, 1, 9, 9, 9])
    loss = {c.name: c for c in summarise(figures).curves if c.change == "noise"}
    assert loss["other"].beside["pixel"] == (0, 0, 0)  # though each by itself is uncertain
    output = summarise({SSIM: {"identity": figures[LOSS]["pixel"], "wild": figures[LOSS]["wild"]}})
    curves = {c.name: c for c in output.curves if c.change == "noise"}
    assert curves["identity"].points[-1].mean == pytest.approx(0.2 * 3.5)
    for curve in curves.values():
        assert curve.points[-1].low < curve.points[-1].mean < curve.points[-1].high
    assert curves["wild"].points[-1].high > curves["identity"].points[-1].high
