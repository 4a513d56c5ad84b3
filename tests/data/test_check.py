import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from underdrawing.data.check import LEFT_OUT, Report, check_folders
from underdrawing.data.dataset import PairDataset
from underdrawing.data.folders import read_collection
from underdrawing.data.image_cache import ResizedImages, build_cache

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and non-UTF-8 names are POSIX only")

FOUND = {
    "dangling link": ["gone.jpg", "loop.jpg"],
    "not a file": ["pipe.jpg"],
    "empty": ["zero.jpg"],
    "not an image": ["text.jpg"],
    "damaged": ["cut\n.jpg"],
    "too large": ["bomb.ppm"],
    "unsupported encoding": ["float.tif"],
    "unsupported format": ["phone.heic"],
    "incomplete": ["end.jpg"],
    "wrong suffix": ["misnamed.png"],
    "small": ["dot.png"],
    "narrow": ["narrow.png"],
    "invalid color profile": ["garbage.jpg"],
    "invalid EXIF": ["exif77.jpg"],
}


def names(report: Report) -> dict[str, list[str]]:
    return {kind: [p.name for p in paths] for kind, paths in report.found.items() if paths}


def write_images(folder: Path, count: int, start: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths, start):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    return paths


@pytest.mark.filterwarnings("ignore:.* images in .* are unreadable")
def test_check_finds_every_kind_and_agrees_with_training(messy_folder: Path) -> None:
    (report,) = check_folders([messy_folder])
    assert names(report) == FOUND
    assert (report.refusal, report.code) == ("", 1)
    collection = read_collection(messy_folder)
    assert report.collection == collection
    used = {*collection.train, *collection.validation, *collection.test}
    assert used == report.sizes.keys()
    assert used.isdisjoint(path for kind in LEFT_OUT for path in report.found[kind])
    assert report.left_out == 9


def test_messy_folder_trains_with_one_warning(messy_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):  # checked, and with the record of that
        with pytest.warns(UserWarning, match="8 of 86 images in .* are unreadable") as caught:
            collection = read_collection(messy_folder, tmp_path / "cache")
        assert len(caught) == 1
        assert str(caught[0].message).replace("\n", "").isprintable()
    json.dumps(collection.manifest()).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = collection.train
        images = ResizedImages(paths, 32), build_cache(paths, 32, tmp_path / "cache", "photos")
        datasets = [PairDataset(source, source, 24, seed=0) for source in images]
        for position in range(2 * len(paths)):
            one, other = (dataset[position]["content"] for dataset in datasets)
            np.testing.assert_array_equal(one, other)


def test_size_is_that_of_the_full_resolution(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200)).save(tmp_path / "photo.jpg")
    (report,) = check_folders([tmp_path])
    assert report.sizes == {tmp_path / "photo.jpg": (1600, 1200)}


@pytest.mark.parametrize(("bad", "code"), [(2, 1), (3, 2)])
def test_more_than_a_fifth_unreadable_is_refused(bad: int, code: int, tmp_path: Path) -> None:
    for path in write_images(tmp_path, 10)[:bad]:
        path.write_bytes(b"")
    (report,) = check_folders([tmp_path])
    assert len(report.found["empty"]) == bad
    assert report.code == code
    assert ("3 of 10 images" in report.refusal) == (code == 2)


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.psd").touch()
    write_images(tmp_path / "good", 1)
    missing, empty, good = check_folders([tmp_path / name for name in ("missing", "empty", "good")])
    assert "there is no folder" in missing.refusal
    assert "contains no images" in empty.refusal
    assert names(empty) == {"unsupported format": ["a.psd"]}
    assert [missing.code, empty.code, good.code] == [2, 2, 0]


def test_copies_are_found_within_and_across_folders(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "a", 30)
    write_images(tmp_path / "b", 9, start=100)
    paths[1].write_bytes(paths[0].read_bytes())
    (tmp_path / "b" / "3.png").write_bytes(paths[5].read_bytes())
    a, b = check_folders([tmp_path / "a", tmp_path / "b"])
    assert (names(a), names(b)) == ({"copy": ["1.png"]}, {"copy in another folder": ["3.png"]})
    assert (a.code, b.code) == (0, 0)
