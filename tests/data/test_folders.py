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
from underdrawing.data.folders import (
    Collection,
    find_images,
    read_collection,
    split,
)
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


def paint(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for number, path in enumerate(paths):  # no two of the same bytes
        Image.new("RGB", (2, 2), (number, crc32(folder.name.encode()) % 256, 0)).save(path)
    return paths


def ranked(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: hashlib.sha1(path.name.encode()).hexdigest())


def sizes(collection: Collection) -> tuple[int, int, int]:
    return len(collection.train), len(collection.validation), len(collection.test)


def place(collection: Collection) -> dict[Path, str]:
    return {path: name for name, part in vars(collection).items() for path in part}


def test_pictures_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.JpEg", "deep/d.webp", "e.tiff", "f.avif")
    touch(tmp_path, "notes.txt", "g.jpg.part", ".hidden.png", "deep/._mac.jpg", "jpg", "model.pt")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == sorted(wanted)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        find_images(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=r"there is no folder .*a\.jpg"):
        find_images(path)


@pytest.mark.parametrize("names", [[], ["notes.txt", ".hidden.jpg"]])
def test_a_folder_without_pictures_says_what_was_looked_for(
    names: list[str], tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(
        ValueError, match=r"holds no pictures .*\.jpeg.*\.webp.*subfolders"
    ) as caught:
        find_images(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.timeout(10)
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "a.jpg", "sub/b.jpg")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    assert set(find_images(tmp_path)) - {tmp_path / "self.jpg"} == set(wanted)


def test_a_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert find_images(tmp_path / "link") == [tmp_path / "link" / "a.jpg"]


def test_links_to_folders_are_followed_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg", "deep/b.jpg")
    folder = tmp_path / "pictures"
    touch(folder, "c.jpg")
    for name in ("first", "second"):
        (folder / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = find_images(folder)
    assert [str(path.relative_to(folder)) for path in found] == [
        "c.jpg", "first/a.jpg", "first/deep/b.jpg",
    ]  # fmt: skip


def test_hidden_folders_and_litter_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, ".git/a.jpg", "__MACOSX/b.jpg", "deep/.thumbnails/c.jpg", "deep/@eaDir/d.jpg")
    (wanted,) = touch(tmp_path, "deep/e.jpg")
    assert find_images(tmp_path) == [wanted]
    assert find_images(tmp_path / ".git") == [tmp_path / ".git" / "a.jpg"]  # named, so meant


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that may not be read; as root, permissions would not do."""
    folders: set[Path] = set()
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return folders


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, locked: set[Path]) -> None:
    touch(tmp_path, "a.jpg")
    locked.add(tmp_path)
    with pytest.raises(ValueError, match=r"the folder .* cannot be read: Permission denied"):
        find_images(tmp_path)


def test_subfolders_that_may_not_be_read_are_left_out(tmp_path: Path, locked: set[Path]) -> None:
    (wanted,) = touch(tmp_path, "a.jpg")
    for name in ("b", "c"):
        touch(tmp_path / name, "d.jpg")
        locked.add(tmp_path / name)
    with pytest.warns(UserWarning, match=r"some folders in .*:\n.*/b: .*\n.*/c: ") as caught:
        assert find_images(tmp_path) == [wanted]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("count", "test", "validation", "train"),
    [
        (1120, 112, 112, 896),
        (320, 32, 32, 256),
        (21, 3, 3, 15),
        (9, 3, 3, 3),
        (8, 2, 2, 4),
        (5, 1, 1, 3),
        (2, 0, 0, 2),
        (1, 0, 0, 1),
    ],
)
def test_the_split_is_the_rank_of_the_names_sha1(
    count: int, test: int, validation: int, train: int
) -> None:
    paths = [Path("photos") / f"{i:04}.jpg" for i in range(count)]
    order = ranked(paths)
    collection = split(paths)
    assert collection.test == tuple(order[:test])
    assert collection.validation == tuple(order[test : test + validation])
    assert collection.train == tuple(order[test + validation :])
    assert len(collection.train) == train


@few
@given(FOLDERS)
def test_every_picture_is_in_one_split(folders: dict[str, list[str]]) -> None:
    paths = [Path(folder) / name for folder, names in folders.items() for name in names]
    collection = split(paths)
    assert sorted(collection.train + collection.validation + collection.test) == sorted(paths)
    assert collection == split(paths[::-1])


@few
@given(FOLDERS, st.randoms(use_true_random=False))
def test_each_folder_is_split_as_if_alone(folders: dict[str, list[str]], random: object) -> None:
    paths = [Path(folder) / name for folder, names in folders.items() for name in names]
    together = place(split(paths))
    for folder in folders:
        alone = place(split([path for path in paths if path.parent == Path(folder)]))
        assert alone.items() <= together.items()


def test_the_split_does_not_look_at_the_path_above() -> None:
    names = [f"{i}.jpg" for i in range(30)]
    here, there = (split([Path(folder) / name for name in names]) for folder in ("a", "/mnt/b/c"))
    assert [path.name for path in here.test] == [path.name for path in there.test]


def test_a_clean_folder_is_read_without_a_word(tmp_path: Path) -> None:
    paint(tmp_path / "monet", 9)
    paint(tmp_path / "nolde", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = read_collection(tmp_path)
    assert collection == split(find_images(tmp_path))
    assert sizes(collection) == (6, 4, 4)


def test_unreadable_files_are_left_out_and_move_no_other(tmp_path: Path) -> None:
    paint(tmp_path, 21)
    whole = read_collection(tmp_path)
    broken = [whole.train[4], whole.validation[0], whole.test[1], whole.test[2]]
    for path in broken:
        path.write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"4 of 21 pictures in .* are unreadable") as caught:
        rest = read_collection(tmp_path)
    assert len(caught) == 1
    assert all(str(path) in str(caught[0].message) for path in broken)
    expected = {path: name for path, name in place(whole).items() if path not in broken}
    assert place(rest) == expected


def test_too_many_unreadable_files_are_refused(tmp_path: Path) -> None:
    paths = paint(tmp_path, 10)
    for path in paths[:2]:
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 10"):
        read_collection(tmp_path)
    paths[2].write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 10 pictures in .* are unreadable") as caught:
        read_collection(tmp_path)
    assert all(str(path) in str(caught.value) for path in paths[:3])


def test_a_link_to_nothing_is_unreadable_not_fatal(tmp_path: Path) -> None:
    paths = paint(tmp_path, 9)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.warns(UserWarning, match=r"gone\.jpg"):
        collection = read_collection(tmp_path)
    assert place(collection).keys() == set(paths)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded to check them."""
    names: list[str] = []

    def watched(path: Path, at_least: int) -> Image.Image:
        names.append(path.name)
        return read_image(path, at_least)

    monkeypatch.setattr(folders, "read_image", watched)
    return names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    paint(tmp_path / "pictures" / "a", 9)
    paint(tmp_path / "pictures" / "b", 3)
    return tmp_path / "pictures"


def test_good_files_are_checked_once(pictures: Path, tmp_path: Path, checked: list[str]) -> None:
    first = read_collection(pictures, tmp_path / "cache")
    assert len(checked) == 12
    checked.clear()
    assert read_collection(pictures, tmp_path / "cache") == first
    assert checked == []
    assert read_collection(pictures) == first
    assert len(checked) == 12


def test_only_new_and_changed_files_are_checked_again(
    pictures: Path, tmp_path: Path, checked: list[str]
) -> None:
    read_collection(pictures, tmp_path / "cache")
    (pictures / "a" / "1.png").unlink()
    os.utime(pictures / "a" / "2.png", ns=(7, 7))
    Image.new("RGB", (50, 50)).save(pictures / "b" / "2.png")
    Image.new("RGB", (2, 2)).save(pictures / "b" / "new.png")
    checked.clear()
    assert read_collection(pictures, tmp_path / "cache") == split(find_images(pictures))
    assert sorted(checked) == ["2.png", "2.png", "new.png"]
    checked.clear()
    read_collection(pictures, tmp_path / "cache")
    assert checked == []


def test_unreadable_files_are_named_each_time_until_they_are_mended(
    pictures: Path, tmp_path: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "a" / "4.png").write_bytes(b"no picture")
    (pictures / "gone.jpg").symlink_to(pictures / "nowhere.jpg")
    for _ in range(2):
        checked.clear()
        with pytest.warns(UserWarning, match="2 of 13"):
            rest = read_collection(pictures, tmp_path / "cache")
        assert pictures / "a" / "4.png" not in place(rest)
        assert pictures / "gone.jpg" not in place(rest)
    assert sorted(checked) == ["4.png", "gone.jpg"]
    (pictures / "gone.jpg").unlink()
    # As after a chmod, the file's size and time of change are what they were.
    monkeypatch.setattr(folders, "read_image", lambda path, at_least: None)
    assert read_collection(pictures, tmp_path / "cache") == split(find_images(pictures))


def test_a_file_that_breaks_after_its_check_is_found(pictures: Path, tmp_path: Path) -> None:
    read_collection(pictures, tmp_path / "cache")
    (pictures / "a" / "4.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"1 of 12 pictures .*\n.*4\.png"):
        read_collection(pictures, tmp_path / "cache")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"a/1.png": null}', b"7"])
def test_a_damaged_record_is_made_again(
    damage: bytes, pictures: Path, tmp_path: Path, checked: list[str]
) -> None:
    first = read_collection(pictures, tmp_path / "cache")
    (record,) = (tmp_path / "cache" / "checked").iterdir()
    content = record.read_bytes()
    record.write_bytes(damage)
    checked.clear()
    assert read_collection(pictures, tmp_path / "cache") == first
    assert len(checked) == 12
    assert record.read_bytes() == content


def test_a_record_that_cannot_be_written_is_done_without(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_collection(pictures, tmp_path / "cache") == read_collection(pictures)


def test_every_folder_has_its_own_record(pictures: Path, tmp_path: Path) -> None:
    for folder in (pictures, pictures / "a", pictures / "b", pictures):
        read_collection(folder, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "checked").iterdir())) == 3


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    folder = tmp_path / "photos"
    paths = touch(folder, *(f"{i}.jpg" for i in range(9)))
    for path in paths:
        path.write_bytes(b"12345")
    return split(paths)


def test_the_manifest_lists_names_and_sizes(collection: Collection) -> None:
    manifest = collection.manifest()
    assert manifest["test"] == [{"name": f"photos/{p.name}", "bytes": 5} for p in collection.test]
    assert {"sha256", "train", "validation", "test"} == manifest.keys()
    assert manifest == collection.manifest()


def test_the_manifest_does_not_depend_on_where_the_folder_lies(
    collection: Collection, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    (tmp_path / "photos").rename(moved)
    here = split(find_images(moved)).manifest()
    moved.rename(tmp_path / "photos")
    assert here == collection.manifest()


def test_the_manifests_hash_sees_names_sizes_and_splits(collection: Collection) -> None:
    hashes = [collection.manifest()["sha256"]]
    swapped = Collection(collection.train, collection.test, collection.validation)
    hashes.append(swapped.manifest()["sha256"])
    collection.train[0].write_bytes(b"123456")
    hashes.append(collection.manifest()["sha256"])
    renamed = collection.train[0].rename(collection.train[0].with_name("new.jpg"))
    replaced = Collection((renamed, *collection.train[1:]), collection.validation, collection.test)
    hashes.append(replaced.manifest()["sha256"])
    assert len(set(hashes)) == 4


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_names_that_are_no_utf8_are_split_too() -> None:
    paths = [Path(os.fsdecode(b"photos/\xff%d.jpg" % i)) for i in range(9)]
    assert sizes(split(paths)) == (3, 3, 3)


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_names_of_any_bytes_are_read_said_and_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "λ\n絵画"
    paths = paint(folder, 9)
    for number, name in enumerate([b"\xff\xfe.png", b"a\nb.png", b"\x1b[31m.png"]):
        paths[number] = paths[number].rename(folder / os.fsdecode(name))
    for _ in range(2):
        collection = read_collection(folder, tmp_path / "cache")
        assert place(collection).keys() == set(paths)
        assert len(json.dumps(collection.manifest()).encode()) > 100
    paths[1].write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"1 of 9 .*\n.*a\\nb\.png") as caught:
        read_collection(folder, tmp_path / "cache")
    assert len(str(caught[0].message).splitlines()) == 2
    assert str(caught[0].message).replace("\n", "").isprintable()


def test_training_pictures_that_are_also_held_out_are_left_out(tmp_path: Path) -> None:
    paint(tmp_path, 30)
    whole = read_collection(tmp_path)
    copies = [
        (whole.test[0], whole.train[2]),
        (whole.test[0], whole.train[3]),
        (whole.validation[1], whole.train[4]),
        (whole.test[2], whole.validation[2]),
        (whole.train[5], whole.train[6]),  # its own affair
    ]
    for original, copy in copies:
        copy.write_bytes(original.read_bytes())
    leaking = {copy for _, copy in copies[:4]}
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"4 of 30 pictures .* are left out, .* copies"
        ) as caught:
            rest = read_collection(tmp_path, tmp_path / "cache")
        assert len(caught) == 1
        assert place(rest) == {p: name for p, name in place(whole).items() if p not in leaking}


def test_a_folder_of_one_picture_many_times_is_refused(tmp_path: Path) -> None:
    for path in paint(tmp_path, 12):
        path.write_bytes((tmp_path / "0.png").read_bytes())
    with pytest.raises(ValueError, match="holds no picture for training that is not also a"):
        read_collection(tmp_path)


def test_one_picture_trains(tmp_path: Path) -> None:
    paint(tmp_path, 1)
    assert sizes(read_collection(tmp_path)) == (1, 0, 0)


def test_the_manifest_of_a_file_that_vanished_says_so(collection: Collection) -> None:
    collection.test[0].unlink()
    name = f"photos/{collection.test[0].name}"
    assert {"name": name, "bytes": None} in collection.manifest()["test"]  # type: ignore[operator]
