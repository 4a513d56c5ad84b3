from collections.abc import Callable

import numpy as np
import pytest
from underdrawing.data.demo.paintings import HANDS, paint_canvas
from underdrawing.data.demo.scenes import scene

SEEDS = (5, 6, 7, 8, 9)  # one scene of each kind


@pytest.fixture(scope="module")
def canvases() -> dict[str, list[np.ndarray]]:
    motifs = [scene(seed, 112, 128) for seed in SEEDS]
    painted = {hand: [paint_canvas(hand, m, k) for k, m in enumerate(motifs)] for hand in HANDS}
    return {"motif": motifs, **painted}


def _luma(canvas: np.ndarray) -> np.ndarray:
    return canvas @ np.array([0.299, 0.587, 0.114])


def _line_contrast(canvas: np.ndarray) -> float:
    return float(np.hypot(*np.gradient(_luma(canvas))).mean())


def _chroma_contrast(canvas: np.ndarray) -> float:
    return float(np.abs(np.diff(canvas - _luma(canvas)[..., None], axis=1)).mean())


def _hue_spread(canvas: np.ndarray) -> float:
    return float((canvas - _luma(canvas)[..., None]).std(axis=(0, 1)).max())


def _colors(canvas: np.ndarray) -> int:
    """How many colors (of 8 levels a channel) cover nine tenths of the canvas."""
    codes = (canvas * 7.999).astype(int) @ np.array([64, 8, 1])
    counts = np.sort(np.bincount(codes.ravel()))[::-1]
    return int((counts.cumsum() < 0.9 * codes.size).sum()) + 1


def _quiet(canvas: np.ndarray) -> float:
    """The contrast of the quietest quarter: is there a hand even where the motif is empty?"""
    return float(np.quantile(np.hypot(*np.gradient(_luma(canvas))), 0.25))


def _grid(canvas: np.ndarray) -> float:
    """Do edges come back after 8 px rather than 4? (Autocorrelation along the rows.)"""
    edges = np.abs(np.diff(_luma(canvas), axis=1))
    edges -= edges.mean()
    eight, four = (float((edges[:, k:] * edges[:, :-k]).mean()) for k in (8, 4))
    return (eight - four) / float(edges.var())


def _coherence(canvas: np.ndarray) -> float:
    """How far the slopes of an 8×8 patch agree on one direction, in [0,1]."""
    down, right = np.gradient(_luma(canvas))
    doubled = ((right + 1j * down) ** 2).reshape(14, 8, 16, 8)
    return float(np.abs(doubled.mean((1, 3))).mean() / np.abs(doubled).mean())


def test_scenes_repeat_and_differ() -> None:
    first = scene(3, 48, 64)
    assert first.shape == (48, 64, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, scene(3, 48, 64))
    pictures = [scene(seed, 48, 64) for seed in range(12)]
    assert len({picture.tobytes() for picture in pictures}) == 12


@pytest.mark.parametrize("seed", range(20))
def test_scenes_show_something_in_any_shape(seed: int) -> None:
    assert scene(seed, 64, 48).std() > 0.05


@pytest.mark.parametrize("hand", HANDS)
def test_a_canvas_repeats_only_with_its_seed(hand: str) -> None:
    motif = scene(0, 61, 75)
    canvas = paint_canvas(hand, motif, 4)
    assert canvas.shape == motif.shape
    assert canvas.dtype == np.float32
    assert canvas.min() >= 0
    assert canvas.max() <= 1
    np.testing.assert_array_equal(canvas, paint_canvas(hand, motif, 4))
    assert np.abs(canvas - paint_canvas(hand, motif, 5)).mean() > 0.01


@pytest.mark.parametrize("hand", HANDS)
def test_painting_leaves_global_random_state_and_motif_alone(hand: str) -> None:
    motif = scene(1, 48, 48)
    before, state = motif.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    paint_canvas(hand, motif, 0)
    np.testing.assert_array_equal(motif, before)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("hand", HANDS)
def test_even_an_empty_motif_gets_brushwork(hand: str, level: float) -> None:
    canvas = paint_canvas(hand, np.full((48, 64, 3), level, np.float32), 0)
    assert np.isfinite(canvas).all()
    assert _line_contrast(canvas) > 0.01


def test_an_unknown_hand_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'fresco'.*impasto.*woodblock"):
        paint_canvas("fresco", scene(0, 32, 32), 0)


@pytest.mark.parametrize("hand", HANDS)
def test_the_motif_is_still_recognized(hand: str, canvases: dict[str, list[np.ndarray]]) -> None:
    def layout(canvas: np.ndarray) -> np.ndarray:
        return _luma(canvas).reshape(14, 8, 16, 8).mean((1, 3)).ravel()

    for motif, canvas in zip(canvases["motif"], canvases[hand], strict=True):
        assert np.corrcoef(layout(motif), layout(canvas))[0, 1] > 0.6


@pytest.mark.parametrize("hand", HANDS)
def test_every_hand_shows_where_the_motif_is_empty(
    hand: str, canvases: dict[str, list[np.ndarray]]
) -> None:
    for motif, canvas in zip(canvases["motif"], canvases[hand], strict=True):
        assert _quiet(canvas) > 1.5 * _quiet(motif)


def test_each_hand_has_its_own_mark(canvases: dict[str, list[np.ndarray]]) -> None:
    for k in range(len(SEEDS)):

        def ranked(measure: Callable[[np.ndarray], float], k: int = k) -> list[str]:
            return sorted(HANDS, key=lambda hand: measure(canvases[hand][k]))

        colorful = ranked(lambda c: _chroma_contrast(c) / _line_contrast(c))
        assert colorful[-2:] == ["impasto", "pointillism"]
        assert _coherence(canvases["impasto"][k]) > 1.2 * _coherence(canvases["pointillism"][k])
        assert ranked(_grid)[-1] == "mosaic"
        assert ranked(_line_contrast)[-1] == "hatching"
        assert ranked(_hue_spread)[0] == "hatching"
        assert set(ranked(_colors)[:2]) == {"woodblock", "hatching"}


def test_the_hand_shows_more_than_the_motif(canvases: dict[str, list[np.ndarray]]) -> None:
    """Texture statistics alone find, for each canvas, another one by the same hand."""
    measures = (_line_contrast, _chroma_contrast, _hue_spread, _quiet, _grid, _coherence)
    table = np.array([[m(c) for m in measures] for hand in HANDS for c in canvases[hand]])
    table = (table - table.mean(0)) / table.std(0)
    distance = np.linalg.norm(table[:, None] - table, axis=-1)
    np.fill_diagonal(distance, np.inf)
    hand = np.repeat(np.arange(len(HANDS)), len(SEEDS))
    assert (hand[distance.argmin(1)] == hand).all()
