from itertools import combinations

import numpy as np
import pytest
from underdrawing.data.demo.paintings import TECHNIQUES, paint_canvas, scene

SEEDS = (5, 6, 7, 8)  # both subjects


@pytest.fixture(scope="module")
def paintings() -> dict[str, list[np.ndarray]]:
    """Scenes, and their paintings by technique."""
    scenes = [scene(seed, 112, 128) for seed in SEEDS]
    painted = {t: [paint_canvas(t, s, k) for k, s in enumerate(scenes)] for t in TECHNIQUES}
    return {"scene": scenes, **painted}


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def slope(image: np.ndarray) -> np.ndarray:
    return np.hypot(*np.gradient(luma(image)))


def test_scenes_are_deterministic_and_differ_by_seed() -> None:
    scenes = [scene(seed, 48, 64) for seed in range(20)]
    for image in scenes:
        assert (image.shape, image.dtype) == ((48, 64, 3), np.float32)
        assert (image.min() >= 0) & (image.max() <= 1.05) & (image.std() > 0.05)
    np.testing.assert_array_equal(scenes[3], scene(3, 48, 64))
    assert len({image.tobytes() for image in scenes}) == 20


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_painting_depends_on_scene_and_seed_alone(technique: str) -> None:
    source = scene(0, 61, 75)
    before = source.copy()
    painting = paint_canvas(technique, source, 4)
    assert (painting.shape, painting.dtype) == (source.shape, np.float32)
    assert (painting.min() >= 0) & (painting.max() <= 1)
    np.testing.assert_array_equal(painting, paint_canvas(technique, source, 4))
    assert np.abs(painting - paint_canvas(technique, source, 5)).mean() > 0.01
    np.testing.assert_array_equal(source, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_uniform_image_gets_texture(technique: str) -> None:
    for level in (0.0, 0.5, 1.0):
        painting = paint_canvas(technique, np.full((48, 64, 3), level, np.float32), 0)
        assert np.isfinite(painting).all()
        assert slope(painting).mean() > 0.01
    with pytest.raises(ValueError, match=r"'fresco'.*impasto.*woodblock"):
        paint_canvas("fresco", painting, 0)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_paintings_keep_the_layout_and_add_texture(
    technique: str, paintings: dict[str, list[np.ndarray]]
) -> None:
    def layout(image: np.ndarray) -> np.ndarray:
        return luma(image).reshape(14, 8, 16, 8).mean((1, 3)).ravel()

    for source, painting in zip(paintings["scene"], paintings[technique], strict=True):
        assert np.corrcoef(layout(source), layout(painting))[0, 1] > 0.6
        assert np.quantile(slope(painting), 0.25) > 1.5 * np.quantile(slope(source), 0.25)


def test_techniques_differ(paintings: dict[str, list[np.ndarray]]) -> None:
    for a, b in combinations(TECHNIQUES, 2):
        for one, other in zip(paintings[a], paintings[b], strict=True):
            assert np.abs(one - other).mean() > 0.05
