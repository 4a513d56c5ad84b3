import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from underdrawing.data import image_cache
from underdrawing.data.dataset import Images
from underdrawing.data.image_cache import ResizedImages, build_cache, cached_side
from underdrawing.data.images import ImageError, read_image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Images of several modes and formats, larger and smaller than the sides that are tested."""
    folder = tmp_path / "images"
    folder.mkdir()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    noise(200, 150).save(folder / "photo.jpg")
    noise(120, 90, seed=1).save(folder / "rotated.jpg", exif=rotated)
    noise(64, 80).convert("CMYK").save(folder / "print.jpg")
    noise(60, 80).convert("RGBA").save(folder / "alpha.png")
    deep = np.arange(90 * 70, dtype=np.uint16).reshape(90, 70) * 10
    Image.fromarray(deep).save(folder / "deep.png")
    noise(20, 30).save(folder / "small.jpg")
    noise(300, 40).convert("L").save(folder / "wide.gif")
    return sorted(folder.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that are decoded."""
    calls: list[Path] = []

    def watched(path: Path, at_least: int) -> Image.Image:
        calls.append(path)
        return read_image(path, at_least)

    monkeypatch.setattr(image_cache, "read_image", watched)
    return calls


def build(paths: list[Path], cache: Path, side: int = 32) -> ResizedImages:
    images = build_cache(paths, side, cache, "photos")
    assert images.files
    return images


def read(images: Images, index: int) -> np.ndarray | str:
    try:
        return images[index]
    except ImageError as error:
        return str(error)


def assert_equal(images: Images, paths: list[Path], side: int = 32) -> None:
    """Arrays and errors are those of decoding."""
    assert len(images) == len(paths)
    for index in range(len(paths)):
        ours, expected = read(images, index), read(ResizedImages(paths, side), index)
        assert type(ours) is type(expected)
        np.testing.assert_array_equal(ours, expected)


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("side", [16, 33, 64])
def test_cached_images_equal_uncached_ones_and_are_decoded_once(
    side: int, paths: list[Path], cache: Path, decoded: list[Path]
) -> None:
    build(paths, cache, side)
    assert sorted(decoded) == paths
    decoded.clear()
    images = build(paths, cache, side)
    assert not any(images[index].flags.writeable for index in range(len(paths)))
    assert decoded == []
    assert_equal(images, paths, side)
    assert len(files(cache)) == len(paths)


def test_shorter_side_is_reduced_and_never_enlarged(paths: list[Path]) -> None:
    for side in (16, 64):
        images = ResizedImages(paths, side)
        for index, path in enumerate(paths):
            width, height = read_image(path).size
            shape = images[index].shape
            assert min(shape[:2]) == min(side, width, height)
            assert shape[1] / shape[0] == pytest.approx(width / height, rel=0.5 / side)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(32, 2000), st.floats(0.01, 1))
def test_cached_side_is_the_smallest_without_enlargement(size: int, scale: float) -> None:
    side = cached_side(size, scale)
    assert side * math.sqrt(scale) >= size - 1e-6
    assert (side - 1) * math.sqrt(scale) < size


CHANGES: dict[str, tuple[Callable[[list[Path]], object], int]] = {
    "changed": (lambda paths: noise(50, 70, seed=9).save(paths[2]), 1),
    "touched": (lambda paths: os.utime(paths[1], ns=(5, 5)), 1),
    "damaged": (lambda paths: paths[0].write_bytes(paths[0].read_bytes()[:200]), 1),
    "removed": (lambda paths: paths[-1].unlink(), 1),
    "added": (lambda paths: paths.append(Path(shutil.copy(paths[0], paths[0].parent / "new"))), 1),
    "left out": (lambda paths: paths.pop(0), 0),
    "reordered": (lambda paths: paths.reverse(), 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_changed_files_are_decoded_again_and_old_entries_removed(
    change: str, paths: list[Path], cache: Path, decoded: list[Path]
) -> None:
    build(paths, cache)
    apply, count = CHANGES[change]
    apply(paths)
    decoded.clear()
    images = build(paths, cache)
    assert len(decoded) == count
    assert_equal(images, paths)
    readable = sum(isinstance(read(images, index), np.ndarray) for index in range(len(paths)))
    assert len(files(cache)) == readable


def test_sides_names_and_folders_have_caches_of_their_own(paths: list[Path], cache: Path) -> None:
    elsewhere = Path(shutil.copytree(paths[0].parent, cache.parent / "elsewhere"))
    others = sorted(elsewhere.iterdir())
    jobs = [(paths, 32, "photos"), (paths, 33, "photos"), (paths, 32, "art"), (others, 32, "art")]
    for job_paths, side, name in jobs:
        build_cache(job_paths, side, cache, name)
    assert len(files(cache)) == len(paths) * len(jobs)
    for job_paths, side, name in jobs:
        assert_equal(build_cache(job_paths, side, cache, name), job_paths, side)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "overwritten": lambda file: file.write_bytes(b"0" * file.stat().st_size),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_heals(
    damage: str, paths: list[Path], cache: Path, decoded: list[Path]
) -> None:
    images = build(paths, cache)
    whole = images.files[2].read_bytes()
    DAMAGES[damage](images.files[2])
    decoded.clear()
    assert_equal(build(paths, cache), paths)
    assert decoded[0] == paths[2]
    assert images.files[2].read_bytes() == whole


def test_an_entry_damaged_after_the_start_is_decoded(paths: list[Path], cache: Path) -> None:
    images = build(paths, cache)
    images.files[0].unlink()
    images.files[1].write_bytes(b"")
    for index, byte in ((2, 60), (3, -10), (4, -1)):  # of the pixels, the size, the CRC
        content = bytearray(images.files[index].read_bytes())
        content[byte] ^= 1
        images.files[index].write_bytes(content)
    assert_equal(images, paths)
    assert_equal(build(paths, cache), paths)


def test_unreadable_images_raise_the_same_error_on_access(paths: list[Path], cache: Path) -> None:
    paths[0].write_bytes(b"not an image")
    paths[5].unlink()
    images = build(paths, cache)
    assert_equal(images, paths)
    for index in (0, 5):
        with pytest.raises(ImageError, match=paths[index].name):
            images[index]


def test_a_cache_that_cannot_be_written_or_would_fill_the_disk_is_a_warning(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = len(paths) * 32 * 32 * 4
    free = 2 * needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    for folder, reason in ((cache, r"might take 0\.0 GB, and 0\.0 GB are free"),
                           (paths[0], "directory")):  # fmt: skip
        with pytest.warns(UserWarning, match=rf"photos cannot be cached in .*{reason}") as caught:
            assert build_cache(paths, 32, folder, "photos") == ResizedImages(paths, 32)
        assert len(caught) == 1
    assert files(cache) == []
    free = 2 * needed
    build(paths, cache)
    free = 0  # nothing more is needed
    assert_equal(build(paths, cache), paths)
