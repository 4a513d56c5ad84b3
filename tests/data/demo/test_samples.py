from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from underdrawing.data import samples
from underdrawing.data.demo.paintings import HANDS
from underdrawing.data.demo.samples import sample_collections
from underdrawing.data.folders import Collection

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Collection, Collection]:
    """The samples with few and small canvases, and the folder they lie in."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "CANVASES", {"train": 4, "validation": 1, "test": 1})
        patch.setattr(samples, "SHAPES", ((48, 64), (56, 56)))
        photos, paintings = sample_collections(cache)
    return cache, photos, paintings


def _parts(collection: Collection) -> dict[str, tuple[Path, ...]]:
    return {split: getattr(collection, split) for split in SPLITS}


def test_no_photo_is_in_two_splits(small: tuple[Path, Collection, Collection]) -> None:
    _, photos, _ = small
    sources = {s: {p.stem.rsplit("-", 1)[0] for p in paths} for s, paths in _parts(photos).items()}
    assert all(photos for photos in sources.values())
    assert len(set.union(*sources.values())) == sum(map(len, sources.values()))


def test_photos_are_color_files_of_one_scale(small: tuple[Path, Collection, Collection]) -> None:
    _, photos, _ = small
    for path in photos.train + photos.validation + photos.test:
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert min(image.size) == samples.SIDE
            assert max(image.size) <= 2 * samples.SIDE


def test_tiles_do_not_overlap() -> None:
    rows, cols = np.indices((514, 771), np.uint8)
    photo = Image.fromarray(np.stack([rows, cols, rows], -1))
    whole, *tiles = samples._whole_and_tiles(photo)
    assert whole.size == (384, 256)
    assert len(tiles) == 6
    assert all(min(tile.size) == 256 for tile in tiles)


def test_every_hand_paints_for_every_split(small: tuple[Path, Collection, Collection]) -> None:
    cache, _, paintings = small
    for split, count in (("train", 4), ("validation", 1), ("test", 1)):
        paths = _parts(paintings)[split]
        expected = {f"{hand}-{k:02}.png" for hand in HANDS for k in range(count)}
        assert {path.name for path in paths} == expected
        assert all(path.parent == cache / "samples-v1" / "paintings" / split for path in paths)


def test_no_scene_is_painted_in_two_splits() -> None:
    scenes = [
        samples.FIRST_SCENE[split] + serial
        for split, count in samples.CANVASES.items()
        for serial in range(count * len(HANDS))
    ]
    assert len(set(scenes)) == len(scenes)


def test_the_second_call_only_lists(
    small: tuple[Path, Collection, Collection], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, photos, paintings = small
    monkeypatch.delattr(samples, "paint")
    monkeypatch.delattr(samples, "read_image")
    assert sample_collections(cache) == (photos, paintings)
    assert list(cache.iterdir()) == [cache / "samples-v1"]


def test_a_failure_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_paint(*_: object) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(samples, "paint", out_of_paint)
    with pytest.raises(RuntimeError, match="out of paint"):
        sample_collections(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_process_may_be_first(tmp_path: Path) -> None:
    draft, folder = tmp_path / "draft", tmp_path / "folder"
    for place in (draft, folder):
        place.mkdir()
        (place / "picture.png").touch()
    samples._publish(draft, folder)
    assert (folder / "picture.png").exists()
    with pytest.raises(FileNotFoundError):
        samples._publish(tmp_path / "nothing", tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["skimage", "sklearn"])
def test_a_missing_wheel_is_explained(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = samples.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else found(name)

    monkeypatch.setattr(samples, "find_spec", find)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[demo\]'"):
        sample_collections(tmp_path)
    assert list(tmp_path.iterdir()) == []
