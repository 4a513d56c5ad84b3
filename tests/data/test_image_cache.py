import json
import math
import multiprocessing
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from underdrawing.data import prepared
from underdrawing.data.dataset import PairDataset, Pictures
from underdrawing.data.image_cache import AHEAD, CachedImages, UncachedImages, cached_side, prepare
from underdrawing.data.images import read_image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mixed(folder: Path) -> list[Path]:
    """Files of all kinds, larger and smaller than the sides that the tests ask for."""
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(200, 150).save(folder / "photo.jpg")
    noise(120, 90, seed=1).save(folder / "turned.jpg", exif=turned)
    noise(64, 80).convert("CMYK").save(folder / "print.jpg")
    noise(90, 70).save(folder / "picture.png")
    noise(60, 80).convert("RGBA").save(folder / "veil.png")
    deep = np.arange(90 * 70, dtype=np.uint16).reshape(90, 70) * 10
    Image.fromarray(deep).save(folder / "deep.png")
    noise(20, 30).save(folder / "small.jpg")
    noise(300, 40).convert("L").save(folder / "wide.gif")
    return sorted(folder.iterdir())


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return mixed(tmp_path / "pictures")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def outcome(pictures: Pictures, index: int) -> np.ndarray | str:
    try:
        return pictures[index]
    except ValueError as error:
        return str(error)


def assert_same(pictures: Pictures, paths: Sequence[Path], side: int) -> None:
    """The pictures come from a cache and are those that decoding gives, complaints included."""
    assert isinstance(pictures, CachedImages)
    assert len(pictures) == len(paths)
    for index in range(len(paths)):
        ours, theirs = outcome(pictures, index), outcome(UncachedImages(paths, side), index)
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(ours, theirs)


def files(cache: Path) -> list[str]:
    """Suffixes of everything in the cache, which shows what piled up."""
    return sorted(path.suffix for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("side", [16, 33, 64])
def test_cached_is_decoded(side: int, paths: list[Path], cache: Path) -> None:
    assert_same(prepare(paths, side, cache, "photos"), paths, side)
    assert_same(prepare(paths, side, cache, "photos"), paths, side)
    assert files(cache) == [".json", ".u8"]


@pytest.mark.parametrize("side", [16, 64])
def test_the_shorter_side_is_reduced_and_never_enlarged(
    side: int, paths: list[Path], cache: Path
) -> None:
    pictures = prepare(paths, side, cache, "photos")
    for index, path in enumerate(paths):
        width, height = read_image(path).size
        shape = pictures[index].shape
        assert min(shape[:2]) == min(side, width, height)
        assert shape[1] / shape[0] == pytest.approx(width / height, rel=0.5 / side)
        assert pictures[index].dtype == np.uint8
        assert not pictures[index].flags.writeable


def test_a_picture_is_still_itself(tmp_path: Path, cache: Path) -> None:
    halves = np.zeros((120, 90, 3), np.uint8)
    halves[:60, :, 0] = halves[60:, :, 2] = 250
    Image.fromarray(halves).save(tmp_path / "halves.png")
    picture = prepare([tmp_path / "halves.png"], 45, cache, "photos")[0]
    assert picture.shape == (60, 45, 3)
    assert (picture[:26] == [250, 0, 0]).all()
    assert (picture[34:] == [0, 0, 250]).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(32, 2000), st.floats(0.01, 1))
def test_the_smallest_square_crop_is_just_not_enlarged(size: int, scale: float) -> None:
    side = cached_side(size, scale)
    assert side * math.sqrt(scale) >= size - 1e-6
    assert (side - 1) * math.sqrt(scale) < size


def test_sides_to_prepare() -> None:
    assert [cached_side(*a) for a in ((256, 0.5), (128, 0.25), (100, 1.0))] == [363, 256, 100]


@pytest.mark.filterwarnings("ignore:.*its neighbor takes its place")
@pytest.mark.parametrize("size", [16, 40])
def test_training_examples_are_the_same_either_way(
    size: int, paths: list[Path], cache: Path
) -> None:
    paths[3].write_bytes(b"broken")
    side = cached_side(size, 0.5)
    kept, decoded = prepare(paths, side, cache, "photos"), UncachedImages(paths, side)
    assert isinstance(kept, CachedImages)
    ours, theirs = (PairDataset(p, p, size, seed=5, full_share=0.5) for p in (kept, decoded))
    for position in range(3 * len(paths)):
        a, b = ours[position], theirs[position]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)  # type: ignore[literal-required]


def test_a_cache_is_opened_without_decoding(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(paths, 32, cache, "photos")
    monkeypatch.delattr(prepared, "read_image")
    again = prepare(paths, 32, cache, "photos")
    assert isinstance(again, CachedImages)
    np.testing.assert_array_equal(again[4], first[4])


CHANGES: dict[str, Callable[[list[Path]], object]] = {
    "changed": lambda paths: noise(50, 70, seed=9).save(paths[2]),
    "touched": lambda paths: os.utime(paths[1], ns=(5, 5)),
    "broken": lambda paths: paths[0].write_bytes(paths[0].read_bytes()[:200]),
    "vanished": lambda paths: paths[-1].unlink(),
    "added": lambda paths: paths.append(Path(shutil.copy(paths[0], paths[0].parent / "new"))),
    "left out": lambda paths: paths.pop(0),
    "reordered": lambda paths: paths.reverse(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_a_new_cache_in_the_place_of_the_old(
    change: str, paths: list[Path], cache: Path
) -> None:
    before = prepare(paths, 32, cache, "photos")
    CHANGES[change](paths)
    after = prepare(paths, 32, cache, "photos")
    assert isinstance(before, CachedImages)
    assert isinstance(after, CachedImages)
    assert after.fingerprint != before.fingerprint
    assert_same(after, paths, 32)
    assert files(cache) == [".json", ".u8"]


def test_sides_names_and_folders_have_caches_of_their_own(tmp_path: Path, cache: Path) -> None:
    here, there = mixed(tmp_path / "here"), mixed(tmp_path / "there")
    jobs = [(here, 32, "photos"), (here, 33, "photos"), (here, 32, "art"), (there, 32, "photos")]
    for paths, side, name in jobs:
        prepare(paths, side, cache, name)
    assert len(files(cache)) == 2 * len(jobs)
    for paths, side, name in jobs:
        assert_same(prepare(paths, side, cache, name), paths, side)


def _rewrite_index(data: Path, pictures: object) -> None:
    index = data.with_suffix(".json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"pictures": pictures}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "data missing": lambda data: data.unlink(),
    "data empty": lambda data: data.write_bytes(b""),
    "data cut": lambda data: data.write_bytes(data.read_bytes()[:-1]),
    "data longer": lambda data: data.write_bytes(data.read_bytes() + b"0"),
    "data of others": lambda data: data.write_bytes(b"0" * data.stat().st_size),
    "index missing": lambda data: data.with_suffix(".json").unlink(),
    "index cut": lambda data: data.with_suffix(".json").write_text('{"fingerprint": "'),
    "index no object": lambda data: data.with_suffix(".json").write_text("[]"),
    "index no text": lambda data: data.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
    "entries missing": lambda data: _rewrite_index(data, []),
    "entries strange": lambda data: _rewrite_index(data, [None, "a", {}]),
    "entries short": lambda data: _rewrite_index(data, [[1]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(damage: str, paths: list[Path], cache: Path) -> None:
    pictures = prepare(paths, 32, cache, "photos")
    assert isinstance(pictures, CachedImages)
    DAMAGES[damage](pictures.data)
    assert_same(prepare(paths, 32, cache, "photos"), paths, 32)
    assert files(cache) == [".json", ".u8"]


def test_a_flipped_bit_is_noticed_when_the_picture_is_read(paths: list[Path], cache: Path) -> None:
    pictures = prepare(paths, 32, cache, "photos")
    assert isinstance(pictures, CachedImages)
    content = bytearray(pictures.data.read_bytes())
    content[-7] ^= 1
    pictures.data.write_bytes(content)
    pictures = prepare(paths, 32, cache, "photos")
    assert all(isinstance(outcome(pictures, i), np.ndarray) for i in range(len(paths) - 1))
    with pytest.raises(ValueError, match=r"photos-32-.*\.u8 is damaged; delete it"):
        pictures[len(paths) - 1]
    next(cache.rglob("*.u8")).unlink()
    assert_same(prepare(paths, 32, cache, "photos"), paths, 32)


@pytest.mark.parametrize("broken", [[0], [2, 3], range(8)])
def test_unreadable_files_complain_alike(
    broken: Sequence[int], paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in broken:
        paths[index].write_bytes(b"no picture")
    paths[5].unlink()
    pictures = prepare(paths, 32, cache, "photos")
    assert_same(pictures, paths, 32)
    for index in {*broken, 5}:
        with pytest.raises(ValueError, match=paths[index].name):
            pictures[index]
    monkeypatch.delattr(prepared, "read_image")
    assert isinstance(prepare(paths, 32, cache, "photos"), CachedImages)


def test_there_is_nothing_past_the_end(paths: list[Path], cache: Path) -> None:
    for pictures in (prepare(paths, 32, cache, "photos"), UncachedImages(paths, 32)):
        assert len(pictures) == 8
        with pytest.raises(IndexError):
            pictures[8]


def assert_decodes_instead(paths: list[Path], cache: Path, why: str) -> None:
    pattern = (
        rf"photos cannot be kept prepared in .*{why}.*; pictures are decoded each time instead"
    )
    with pytest.warns(UserWarning, match=pattern) as caught:
        pictures = prepare(paths, 32, cache, "photos")
    assert len(caught) == 1
    assert pictures == UncachedImages(paths, 32)


def test_a_cache_that_cannot_be_written_is_done_without(paths: list[Path], cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert_decodes_instead(paths, cache, "directory")


def test_a_nearly_full_disk_is_left_alone(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 8 * 32 * 32 * 4

    def with_free(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    with_free(2 * needed - 1)
    assert_decodes_instead(paths, cache, r"might take 0\.0 GB, and only 0\.0 are free")
    assert files(cache) == []
    with_free(2 * needed)
    assert_same(prepare(paths, 32, cache, "photos"), paths, 32)
    with_free(0)
    assert_same(prepare(paths, 32, cache, "photos"), paths, 32)


def test_a_disk_that_fills_up_keeps_the_old_cache(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(paths, 32, cache, "photos")
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_in_order", _fails_midway(OSError("No space left on device")))
        assert_decodes_instead(paths[1:], cache, "No space left on device")
    monkeypatch.delattr(prepared, "read_image")
    assert isinstance(prepare(paths, 32, cache, "photos"), CachedImages)
    assert files(cache) == [".json", ".u8"]


def test_an_interruption_leaves_nothing(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_in_order", _fails_midway(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        prepare(paths, 32, cache, "photos")
    assert files(cache) == []


def _fails_midway(error: BaseException) -> Callable[[UncachedImages], object]:
    def in_order(pictures: UncachedImages) -> object:
        yield pictures[0]
        raise error

    return in_order


def test_only_a_few_pictures_are_decoded_ahead(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def name(_: UncachedImages, index: int) -> str:
        asked.append(index)
        return str(index)

    monkeypatch.setattr(prepared, "_picture_or_complaint", name)
    pictures = UncachedImages(paths * 100, 32)
    assert list(islice(prepared._in_order(pictures), 10)) == [str(i) for i in range(10)]
    assert len(asked) <= 10 + AHEAD
    assert list(prepared._in_order(pictures)) == [str(i) for i in range(800)]


def test_a_pickle_holds_no_pixels(paths: list[Path], cache: Path) -> None:
    content = pickle.dumps(prepare(paths, 32, cache, "photos"))
    assert len(content) < 1000
    assert_same(pickle.loads(content), paths, 32)
    prepare(paths[1:], 32, cache, "photos")
    with pytest.raises(ValueError, match="holds other pictures"):
        pickle.loads(content)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads
@pytest.mark.timeout(60)
def test_processes_may_build_at_once(paths: list[Path], cache: Path) -> None:
    fork = multiprocessing.get_context("fork")
    job = (paths, 32, cache, "photos")
    processes = [fork.Process(target=prepare, args=job) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert_same(prepare(paths, 32, cache, "photos"), paths, 32)
    assert files(cache) == [".json", ".u8"]
