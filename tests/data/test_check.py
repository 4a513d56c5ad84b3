import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from underdrawing.data.check import KINDS, LEFT_OUT, Report, check_folders
from underdrawing.data.dataset import PairDataset
from underdrawing.data.folders import read_collection
from underdrawing.data.image_cache import UncachedImages, prepare

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and names of bytes are POSIX")

FOUND = {
    "dangling link": ["gone.jpg", "loop.jpg"],
    "no file": ["pipe.jpg"],
    "empty": ["zero.jpg"],
    "no picture": ["text.jpg"],
    "damaged": ["cut.jpg"],
    "too large": ["bomb.ppm"],
    "other format": ["phone.heic"],
    "wrong suffix": ["misnamed.png"],
    "very small": ["dot.png"],
    "sliver": ["sliver.png"],
    "several frames": ["film.gif"],
    "CMYK": ["print.jpg"],
    "deep": ["deep.png", "float.tif"],
    "1-bit": ["fax.png"],
    "transparent": ["veil.png"],
    "color profile": ["wide.jpg"],
    "odd color profile": ["garbage.jpg"],
    "turned by EXIF": ["turned.jpg"],
    "odd EXIF": ["odd.jpg"],
}


def names(report: Report) -> dict[str, list[str]]:
    return {kind: [p.name for p in paths] for kind, paths in report.found.items() if paths}


def paint(folder: Path, count: int, start: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths, start):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    return paths


def test_every_kind_of_oddity_is_found(wild: Path) -> None:
    (report,) = check_folders([wild])
    assert names(report) == FOUND
    assert report.refusal == ""
    assert report.code == 1


@pytest.mark.filterwarnings("ignore:.* pictures in .* are unreadable")
def test_the_check_and_training_agree(wild: Path) -> None:
    (report,) = check_folders([wild])
    collection = read_collection(wild)
    assert report.collection == collection
    used = {*collection.train, *collection.validation, *collection.test}
    assert used == report.sizes.keys()
    left_out = {path for kind in LEFT_OUT for path in report.found[kind]}
    assert used.isdisjoint(left_out)


def test_training_meets_the_same_files_without_stopping(wild: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="7 of 85 pictures in .* are unreadable") as caught:
        collection = read_collection(wild, tmp_path / "cache")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = UncachedImages(collection.train, 32)
        kept = prepare(collection.train, 32, tmp_path / "cache", "photos")
        streams = [PairDataset(pictures, pictures, 24, seed=0) for pictures in (decoded, kept)]
        for position in range(2 * len(decoded)):
            one, other = (stream[position]["content"] for stream in streams)
            np.testing.assert_array_equal(one, other)


def test_files_may_vanish_and_break_while_training(wild: Path) -> None:
    with pytest.warns(UserWarning, match="unreadable"):
        paths = read_collection(wild).train
    stream = PairDataset(UncachedImages(paths, 32), UncachedImages(paths, 32), 24, seed=0)
    for number, path in enumerate(paths[:20]):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="its neighbor takes its place") as caught:
        pairs = [stream[position] for position in range(3 * len(paths))]
    assert all(pair["content"].shape == (3, 24, 24) for pair in pairs)
    assert len({str(warning.message) for warning in caught}) == len(caught) == 20


def test_a_good_folder_has_nothing_to_mend(tmp_path: Path) -> None:
    paint(tmp_path, 9)
    (report,) = check_folders([tmp_path])
    assert names(report) == {}
    assert report.code == 0
    assert set(report.sizes.values()) == {(64, 64)}


def test_sizes_are_those_of_the_file_upright_or_not(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200)).save(tmp_path / "photo.jpg")
    (report,) = check_folders([tmp_path])
    assert report.sizes == {tmp_path / "photo.jpg": (1600, 1200)}


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_what_training_would_refuse_is_said(bad: int, tmp_path: Path) -> None:
    for path in paint(tmp_path, 10)[:bad]:
        path.write_bytes(b"")
    (report,) = check_folders([tmp_path])
    assert len(report.found["empty"]) == bad
    assert report.code == (2 if bad == 3 else 1)
    assert ("3 of 10 pictures" in report.refusal) == (bad == 3)


def test_a_missing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.psd").touch()
    paint(tmp_path / "good", 1)
    missing, empty, good = check_folders(
        [tmp_path / "nowhere", tmp_path / "empty", tmp_path / "good"]
    )
    assert "there is no folder" in missing.refusal
    assert "holds no pictures" in empty.refusal
    assert names(empty) == {"other format": ["a.psd"]}
    assert [missing.code, empty.code, good.code] == [2, 2, 0]


def test_copies_are_found_in_a_folder_across_the_split_and_across_folders(tmp_path: Path) -> None:
    paint(tmp_path / "a", 30)
    paint(tmp_path / "b", 9, start=100)
    whole = read_collection(tmp_path / "a")
    whole.train[1].write_bytes(whole.train[0].read_bytes())
    whole.train[2].write_bytes(whole.test[0].read_bytes())
    (tmp_path / "b" / "3.png").write_bytes(whole.train[5].read_bytes())
    a, b = check_folders([tmp_path / "a", tmp_path / "b"])
    assert {kind: set(paths) for kind, paths in names(a).items()} == {
        "copy of a held-out picture": {whole.train[2].name},
        "copy": {max(whole.train[0].name, whole.train[1].name)},
    }
    assert names(b) == {"copy in another folder": ["3.png"]}
    assert (a.code, b.code) == (1, 0)


def test_kinds_are_explained_in_words() -> None:
    for kind in KINDS.values():
        assert len(kind.training) < 40 > 0 < len(kind.advice) < 60
    assert all(kind.training.startswith("left out") for kind in LEFT_OUT.values())
