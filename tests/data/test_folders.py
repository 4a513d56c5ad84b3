import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from underdrawing.data import folders
from underdrawing.data.files import content_hash
from underdrawing.data.folders import Collection, find_images, is_small, read_collection, split
from underdrawing.data.images import read_image

small = pytest.mark.filterwarnings("ignore:.* has only")  # a small folder
HASHES = st.lists(st.integers(0, 2**256 - 1).map("{:064x}".format), max_size=40)


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def write_images(folder: Path, count: int) -> list[Path]:
    """Write images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (2, 2), (number, crc32(folder.name.encode()) % 256, 0)).save(path)
    return paths


def split_of(collection: Collection) -> dict[Path, str]:
    return {path: name for name, paths in collection.splits.items() for path in paths}


def counts(collection: Collection) -> list[int]:
    return [len(paths) for paths in collection.splits.values()]


# --- listing ----------------------------------------------------------------------------------


def test_find_images_searches_subfolders_and_sorts(tmp_path: Path) -> None:
    found = touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.JpEg", "deep/d.webp", "e.tiff", "f.jfif")
    touch(tmp_path, "notes.txt", "g.jpg.part", ".hidden.png", "deep/._mac.jpg", "jpg", "model.pt")
    touch(tmp_path, ".git/a.jpg", "__MACOSX/b.jpg", "deep/.thumbnails/c.jpg", "deep/@eaDir/d.jpg")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == sorted(found)
    assert find_images(tmp_path / ".git") == [tmp_path / ".git" / "a.jpg"]  # named explicitly


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no folder .*missing"),
        ("a.jpg", r"there is no folder .*a\.jpg"),
        ("empty", r"empty contains no images .*\.jpeg.*\.webp"),
    ],
)
def test_folders_that_are_missing_or_without_images_are_refused(
    name: str, message: str, tmp_path: Path
) -> None:
    touch(tmp_path, "a.jpg", "empty/notes.txt", "empty/.hidden.jpg")
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / name)


@pytest.mark.timeout(10)
def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "elsewhere/deep/b.jpg", "images/c.jpg")
    folder, root = tmp_path / "images", tmp_path / "link"
    for link, target in (
        (folder / "first", tmp_path / "elsewhere"),
        (folder / "second", tmp_path / "elsewhere"),
        (folder / "circle", folder),
        (root, folder),
    ):
        link.symlink_to(target, target_is_directory=True)
    found = [str(path.relative_to(root)) for path in find_images(root)]
    assert found == ["c.jpg", "first/a.jpg", "first/deep/b.jpg"]


def test_an_unreadable_folder_is_an_error_and_subfolders_are_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, (found, *_) = os.scandir, touch(tmp_path, "a.jpg", "b/d.jpg", "c/d.jpg")

    def guarded(path: str) -> object:  # permissions would not stop root
        if Path(path) != tmp_path:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(UserWarning, match=r"some folders in .*:\n.*/b: .*\n.*/c: ") as caught:
        assert find_images(tmp_path) == [found]
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"the folder .* cannot be read: Permission denied"):
        find_images(tmp_path / "b")


# --- splits -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(HASHES)
def test_split_is_a_threshold_on_the_content_hash(hashes: list[str]) -> None:
    held_out = [f"{first:02x}" * 32 for first in (0, 1, 25, 26, 27, 51)]  # of 256
    digests = {Path(f"{n}.png"): digest for n, digest in enumerate([*held_out, *hashes] * 2)}
    digests |= {Path(f"{n}.jpg"): f"{255 - n:02x}" * 32 for n in range(40)}
    collection = split(digests)
    assert not is_small(collection)
    splits = split_of(collection)
    assert splits.keys() == digests.keys()
    for path, digest in digests.items():
        tenth = 10 * int(digest, 16) // 2**256
        assert splits[path] == {0: "test", 1: "validation"}.get(tenth, "train")


@pytest.mark.parametrize(
    ("count", "least"), [(50, 3), (9, 3), (8, 2), (5, 1), (3, 1), (2, 0), (1, 0), (0, 0)]
)
@pytest.mark.parametrize("first", [0, 0x40])  # all hashes below 0.2, or none
def test_each_split_of_a_small_folder_has_a_minimum_of_the_lowest_hashes(
    count: int, least: int, first: int
) -> None:
    paths = [Path(f"{n}.png") for n in range(count)]
    collection = split({path: f"{first + n:02x}" * 32 for n, path in enumerate(paths)})
    assert is_small(collection)
    assert [*collection.test, *collection.validation, *collection.train] == paths
    train, validation, test = counts(collection)
    if first:
        assert (validation, test) == (least, least)
    else:
        assert min(validation, test) >= least
        assert train >= max(least, min(count, 1))


@small
@pytest.mark.parametrize("count", [100, 9])
def test_copies_are_in_one_split(count: int, tmp_path: Path) -> None:
    paths = write_images(tmp_path, count)
    copies = [Path(shutil.copy(path, path.with_name(f"copy-{path.name}"))) for path in paths]
    splits = split_of(read_collection(tmp_path))
    assert [splits[path] for path in paths] == [splits[copy] for copy in copies]
    assert {splits[copy] for copy in copies} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("count", "message", "sizes"),
    [
        (20, r"has only 20 images.* add or remove .* move", [14, 3, 3]),
        (2, "has only one or two distinct images, so all are for training", [2, 0, 0]),
    ],
)
def test_small_folders_warn_once(
    count: int, message: str, sizes: list[int], tmp_path: Path
) -> None:
    write_images(tmp_path, count)
    with pytest.warns(UserWarning, match=message) as caught:
        assert counts(read_collection(tmp_path)) == sizes
    assert len(caught) == 1


# --- reading ----------------------------------------------------------------------------------


def test_unreadable_files_are_left_out_and_others_keep_their_split(tmp_path: Path) -> None:
    write_images(tmp_path, 80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = read_collection(tmp_path)
    broken = [whole.train[4], whole.validation[0], whole.test[1]]
    for path in broken:
        path.write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"3 of 80 images in .* are unreadable") as caught:
        rest = read_collection(tmp_path)
    assert len(caught) == 1
    assert all(str(path) in str(caught[0].message) for path in broken)
    assert split_of(rest) == {p: name for p, name in split_of(whole).items() if p not in broken}
    dangling = tmp_path / "gone.jpg"
    dangling.symlink_to(tmp_path / "nowhere.jpg")
    with pytest.warns(UserWarning, match=r"gone\.jpg"):
        assert dangling not in split_of(read_collection(tmp_path))


# --- the record of checked files --------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read: decoded, and if readable, hashed."""
    names: list[str] = []

    def watched(path: Path, at_least: int) -> Image.Image:
        names.append(path.name)
        return read_image(path, at_least)

    def hashed(path: Path) -> str:
        assert path.name in names
        return content_hash(path)

    monkeypatch.setattr(folders, "read_image", watched)
    monkeypatch.setattr(folders, "content_hash", hashed)
    return names


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "a", 9)
    write_images(tmp_path / "images" / "b", 3)
    return tmp_path / "images"


@small
def test_only_new_and_changed_files_are_decoded_and_hashed(
    images: Path, tmp_path: Path, checked: list[str]
) -> None:
    cache = tmp_path / "cache"
    first = read_collection(images, cache)
    assert len(checked) == 12
    checked.clear()
    second = read_collection(images, cache)
    assert (second, second.sha256) == (first, first.sha256)
    assert checked == []
    (images / "a" / "1.png").unlink()
    os.utime(images / "a" / "2.png", ns=(7, 7))
    Image.new("RGB", (50, 50)).save(images / "b" / "2.png")
    Image.new("RGB", (2, 2)).save(images / "b" / "new.png")
    changed = read_collection(images, cache)
    assert sorted(checked) == ["2.png", "2.png", "new.png"]
    assert changed == read_collection(images)
    (images / "a" / "4.png").write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"1 of 12 images .*\n.*4\.png"):
        read_collection(images, cache)


@small
def test_unreadable_files_are_checked_again_each_time(
    images: Path, tmp_path: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "a" / "4.png").write_bytes(b"not an image")
    for _ in range(2):
        checked.clear()
        with pytest.warns(UserWarning, match="1 of 12"):
            read_collection(images, tmp_path / "cache")
    assert checked == ["4.png"]
    # After a chmod the stamp is the same.
    monkeypatch.setattr(folders, "read_image", lambda path, at_least: None)
    assert len(split_of(read_collection(images, tmp_path / "cache"))) == 12


@small
@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"[1, 2]", b'{"a/1.png": null}'])
def test_a_damaged_record_heals(
    damage: bytes, images: Path, tmp_path: Path, checked: list[str]
) -> None:
    first = read_collection(images, tmp_path / "cache")
    (record,) = (tmp_path / "cache" / "checked").iterdir()
    content = record.read_bytes()
    record.write_bytes(damage)
    checked.clear()
    assert read_collection(images, tmp_path / "cache") == first
    assert len(checked) == 12
    assert record.read_bytes() == content


@small
def test_a_record_that_cannot_be_written_is_no_error(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert read_collection(images, tmp_path / "cache") == read_collection(images)


# --- the manifest -----------------------------------------------------------------------------


@small
def test_hash_ignores_where_the_images_are_and_what_they_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 30)
    original = read_collection(folder, tmp_path / "cache")
    copied = Path(shutil.copytree(folder, tmp_path / "copied", copy_function=shutil.copyfile))
    for number, path in enumerate(sorted(copied.iterdir())):
        path.rename(copied / f"renamed-{number}.png")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    for same in (copied, tmp_path / "link", Path(os.path.relpath(folder))):
        collection = read_collection(same)
        assert collection.sha256 == collection.manifest()["sha256"] == original.sha256
        for name, paths in collection.splits.items():
            expected = [path.read_bytes() for path in original.splits[name]]
            assert [path.read_bytes() for path in paths] == expected


@small
def test_hash_depends_on_content_and_splits(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 30)
    collection = read_collection(tmp_path)
    moved = replace(collection, test=collection.validation, validation=())
    hashes = {collection.sha256, moved.sha256}
    shutil.copy(paths[1], tmp_path / "copy.png")
    hashes.add(read_collection(tmp_path).sha256)
    Image.new("RGB", (3, 3)).save(paths[0])
    hashes.add(read_collection(tmp_path).sha256)
    assert len(hashes) == 4
