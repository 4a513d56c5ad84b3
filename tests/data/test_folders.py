import hashlib
import json
import os
import warnings
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from underdrawing.data import folders
from underdrawing.data.folders import Collection, find_images, read_collection, split
from underdrawing.data.images import read_image

NAMES = st.lists(st.text("ab1 ß_", min_size=1, max_size=6), unique=True, max_size=40)
FOLDERS = st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e"]), NAMES, max_size=4)
few = settings(max_examples=25, deadline=None, derandomize=True)


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
    return {path: name for name, paths in vars(collection).items() for path in paths}


# --- listing ----------------------------------------------------------------------------------


def test_find_images_searches_subfolders_and_sorts(tmp_path: Path) -> None:
    found = touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.JpEg", "deep/d.webp", "e.tiff", "f.avif")
    touch(tmp_path, "notes.txt", "g.jpg.part", ".hidden.png", "deep/._mac.jpg", "jpg", "model.pt")
    touch(tmp_path, ".git/a.jpg", "__MACOSX/b.jpg", "deep/.thumbnails/c.jpg", "deep/@eaDir/d.jpg")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == sorted(found)
    assert find_images(tmp_path / ".git") == [tmp_path / ".git" / "a.jpg"]  # named explicitly


def test_find_images_rejects_folders_that_are_missing_or_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "empty/notes.txt", "empty/.hidden.jpg")
    for name, message in {
        "missing": "there is no folder .*missing",
        "a.jpg": r"there is no folder .*a\.jpg",
        "empty": r"empty contains no images .*\.jpeg.*\.webp",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_images(tmp_path / name)


@pytest.mark.timeout(10)
def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg", "deep/b.jpg")
    folder = tmp_path / "images"
    touch(folder, "c.jpg")
    for name in ("first", "second"):
        (folder / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    for root in (folder, tmp_path / "link"):
        found = [str(path.relative_to(root)) for path in find_images(root)]
        assert found == ["c.jpg", "first/a.jpg", "first/deep/b.jpg"]


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that cannot be read; permissions would not stop root."""
    folders: set[Path] = set()
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return folders


def test_an_unreadable_folder_is_an_error(tmp_path: Path, forbidden: set[Path]) -> None:
    touch(tmp_path, "a.jpg")
    forbidden.add(tmp_path)
    with pytest.raises(ValueError, match=r"the folder .* cannot be read: Permission denied"):
        find_images(tmp_path)


def test_unreadable_subfolders_are_one_warning(tmp_path: Path, forbidden: set[Path]) -> None:
    (found,) = touch(tmp_path, "a.jpg")
    for name in ("b", "c"):
        touch(tmp_path / name, "d.jpg")
        forbidden.add(tmp_path / name)
    with pytest.warns(UserWarning, match=r"some folders in .*:\n.*/b: .*\n.*/c: ") as caught:
        assert find_images(tmp_path) == [found]
    assert len(caught) == 1


# --- splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "held_out"), [(1120, 112), (320, 32), (21, 3), (9, 3), (8, 2), (5, 1), (2, 0), (1, 0)]
)
def test_split_takes_the_first_names_by_sha1(count: int, held_out: int) -> None:
    paths = [Path("photos") / f"{i:04}.jpg" for i in range(count)]
    order = sorted(paths, key=lambda path: hashlib.sha1(path.name.encode()).hexdigest())
    assert split(paths) == Collection(
        test=tuple(order[:held_out]),
        validation=tuple(order[held_out : 2 * held_out]),
        train=tuple(order[2 * held_out :]),
    )


@few
@given(FOLDERS)
def test_split_is_a_partition_of_each_folder(folders: dict[str, list[str]]) -> None:
    paths = [Path(folder) / name for folder, names in folders.items() for name in names]
    collection = split(paths)
    assert sorted(collection.train + collection.validation + collection.test) == sorted(paths)
    assert collection == split(paths[::-1])
    for folder in folders:
        alone = split([Path("/mnt") / path for path in paths if path.parent == Path(folder)])
        expected = split_of(collection)
        assert all(expected[p.relative_to("/mnt")] == name for p, name in split_of(alone).items())


# --- reading ----------------------------------------------------------------------------------


def test_good_folder_is_read_without_warnings(tmp_path: Path) -> None:
    write_images(tmp_path / "monet", 9)
    write_images(tmp_path / "nolde", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = read_collection(tmp_path)
    assert collection == split(find_images(tmp_path))
    assert [*map(len, vars(collection).values())] == [4, 3, 3]


def test_unreadable_files_are_left_out_and_others_keep_their_split(tmp_path: Path) -> None:
    write_images(tmp_path, 21)
    whole = read_collection(tmp_path)
    dangling = tmp_path / "gone.jpg"
    broken = [whole.train[4], whole.validation[0], whole.test[1]]
    for path in broken:
        path.write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"3 of 21 images in .* are unreadable") as caught:
        rest = read_collection(tmp_path)
    assert len(caught) == 1
    assert all(str(path) in str(caught[0].message) for path in broken)
    assert split_of(rest) == {p: name for p, name in split_of(whole).items() if p not in broken}
    dangling.symlink_to(tmp_path / "nowhere.jpg")
    with pytest.warns(UserWarning, match=r"gone\.jpg"):
        assert dangling not in split_of(read_collection(tmp_path))


def test_more_than_a_fifth_unreadable_is_an_error(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 10)
    for path in paths[:3]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 10 images in .* are unreadable") as caught:
        read_collection(tmp_path)
    assert all(str(path) in str(caught.value) for path in paths[:3])


def test_copies_of_held_out_images_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, 30)
    whole = read_collection(tmp_path)
    copies = [
        (whole.test[0], whole.train[2]),
        (whole.test[0], whole.train[3]),
        (whole.validation[1], whole.train[4]),
        (whole.test[2], whole.validation[2]),
        (whole.train[5], whole.train[6]),  # allowed
    ]
    for original, copy in copies:
        copy.write_bytes(original.read_bytes())
    left_out = {copy for _, copy in copies[:4]}
    with pytest.warns(UserWarning, match=r"4 of 30 images .* left out, .* copies") as caught:
        rest = read_collection(tmp_path)
    assert len(caught) == 1
    assert split_of(rest) == {p: name for p, name in split_of(whole).items() if p not in left_out}


def test_a_folder_of_copies_of_one_image_is_an_error(tmp_path: Path) -> None:
    for path in write_images(tmp_path, 12):
        path.write_bytes((tmp_path / "0.png").read_bytes())
    with pytest.raises(ValueError, match="contains no training image that is not also a"):
        read_collection(tmp_path)


# --- the record of checked files --------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded to check them."""
    names: list[str] = []

    def watched(path: Path, at_least: int) -> Image.Image:
        names.append(path.name)
        return read_image(path, at_least)

    monkeypatch.setattr(folders, "read_image", watched)
    return names


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "a", 9)
    write_images(tmp_path / "images" / "b", 3)
    return tmp_path / "images"


def test_only_new_and_changed_files_are_checked(
    images: Path, tmp_path: Path, checked: list[str]
) -> None:
    cache = tmp_path / "cache"
    first = read_collection(images, cache)
    assert len(checked) == 12
    checked.clear()
    assert read_collection(images, cache) == first
    assert checked == []
    (images / "a" / "1.png").unlink()
    os.utime(images / "a" / "2.png", ns=(7, 7))
    Image.new("RGB", (50, 50)).save(images / "b" / "2.png")
    Image.new("RGB", (2, 2)).save(images / "b" / "new.png")
    assert read_collection(images, cache) == split(find_images(images))
    assert sorted(checked) == ["2.png", "2.png", "new.png"]
    (images / "a" / "4.png").write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"1 of 12 images .*\n.*4\.png"):
        read_collection(images, cache)


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
    assert read_collection(images, tmp_path / "cache") == split(find_images(images))


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"a/1.png": null}', b"7"])
def test_a_damaged_record_is_rewritten(
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


def test_a_record_that_cannot_be_written_is_no_error(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert read_collection(images, tmp_path / "cache") == read_collection(images)


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_unprintable_names_are_read_recorded_and_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "λ\n絵画"
    paths = write_images(folder, 9)
    for number, name in enumerate([b"\xff\xfe.png", b"a\nb.png", b"\x1b[31m.png"]):
        paths[number] = paths[number].rename(folder / os.fsdecode(name))
    for _ in range(2):
        collection = read_collection(folder, tmp_path / "cache")
        assert split_of(collection).keys() == set(paths)
        json.dumps(collection.manifest()).encode()
    paths[1].write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"1 of 9 .*\n.*a\\nb\.png") as caught:
        read_collection(folder, tmp_path / "cache")
    message = str(caught[0].message)
    assert len(message.splitlines()) == 2
    assert message.replace("\n", "").isprintable()


# --- the manifest -----------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    paths = touch(tmp_path / "photos", *(f"{i}.jpg" for i in range(9)))
    for path in paths:
        path.write_bytes(b"12345")
    return split(paths)


def test_manifest_lists_names_and_sizes_below_the_folder(
    collection: Collection, tmp_path: Path
) -> None:
    manifest = collection.manifest()
    assert manifest.keys() == {"sha256", "train", "validation", "test"}
    expected = [{"name": f"photos/{path.name}", "bytes": 5} for path in collection.test]
    assert manifest["test"] == expected
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    (tmp_path / "photos").rename(moved)
    assert split(find_images(moved)).manifest() == manifest
    gone = [entry | {"bytes": None} for entry in expected]
    assert collection.manifest()["test"] == gone


def test_manifest_hash_depends_on_names_sizes_and_splits(collection: Collection) -> None:
    hashes = [collection.manifest()["sha256"]]
    swapped = Collection(collection.train, collection.test, collection.validation)
    hashes.append(swapped.manifest()["sha256"])
    collection.train[0].write_bytes(b"123456")
    hashes.append(collection.manifest()["sha256"])
    renamed = collection.train[0].rename(collection.train[0].with_name("new.jpg"))
    replaced = Collection((renamed, *collection.train[1:]), collection.validation, collection.test)
    hashes.append(replaced.manifest()["sha256"])
    assert len(set(hashes)) == 4
