from pathlib import Path

import pytest
from PIL import Image
from underdrawing.data.images import save_image
from underdrawing.experiments.paths import STREAM, check_output, output_paths, overlay_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "a.png", "inner/a.jpg", "inner/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_folders_keep_their_structure(folder: Path) -> None:
    out = Path("out")
    assert output_paths([folder], out, "s", ".webp") == {
        folder / "a.jpg": out / "a-s.webp",
        folder / "a.png": out / "a-png-s.webp",
        folder / "inner" / "a.jpg": out / "inner" / "a-s.webp",
        folder / "inner" / "b.png": out / "inner" / "b-s.webp",
    }


def test_no_two_photos_share_an_output_file(folder: Path) -> None:
    photos = [folder / name for name in ("a.jpg", "a.png", "inner/a.jpg", "inner/../a.jpg")]
    paths = output_paths([*photos, folder / "A.jpg"], None, "s", ".png")
    # Some file systems ignore case.
    names = ["a-s.png", "a-png-s.png", "a-jpg-s.png", "a-2-s.png", "A-3-s.png"]
    assert list(paths.values()) == [Path("stylized", name) for name in names]


def test_glob_patterns_are_expanded_unless_they_are_a_file(folder: Path) -> None:
    found = output_paths([folder / "**" / "*.png"], None, "s", ".png")
    assert set(found) == {folder / "a.png", folder / "inner" / "b.png"}
    photo = (folder / "a.png").rename(folder / "a[1].png")
    assert list(output_paths([photo], None, "s", ".png")) == [photo]
    for photos, message in (([folder / "*.gif"], r"no file matches .*\.gif"), ([], "at least one")):
        with pytest.raises(ValueError, match=message):
            output_paths(photos, None, "s", ".png")


def test_out_is_a_file_for_one_photo_only_or_an_existing_folder(folder: Path) -> None:
    photo, out = folder / "a.jpg", Path("result.WebP")
    assert output_paths([photo], out, "s", ".png") == {photo: out}
    with pytest.raises(ValueError, match=r"is for one photo, not 4"):
        output_paths([folder], out, "s", ".png")
    (folder / "v1.5").mkdir()
    paths = output_paths([photo], folder / "v1.5", "s", ".png")
    assert paths == {photo: folder / "v1.5" / "a-s.png"}


def test_standard_streams(folder: Path) -> None:
    photo = folder / "a.jpg"
    assert output_paths([STREAM], None, "s", ".png") == {STREAM: STREAM}
    assert output_paths([photo], STREAM, "s", ".png") == {photo: STREAM}
    assert output_paths([STREAM, photo], None, "s", ".jpg") == {
        STREAM: Path("stylized/stdin-s.jpg"), photo: Path("stylized/a-s.jpg"),
    }  # fmt: skip


def test_a_result_never_replaces_a_photo_or_another_input(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a-s.png")
    paths = output_paths([folder], folder, "s", ".png", [folder / "b-s.png"])
    assert not {*paths.values()} & {*paths, folder / "b-s.png"}
    assert len({*paths.values()}) == len(paths)
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "hard.png").hardlink_to(folder / "a.png")
    for name in ("a.png", "inner/../a.png", "A.png", "link.png", "hard.png"):
        with pytest.raises(ValueError, match=r"would overwrite the input .*a\.png"):
            output_paths([folder / "a.png"], folder / name, "s", ".png")
        with pytest.raises(ValueError, match=r"would overwrite the input .*a\.png"):
            output_paths([folder / "a.jpg"], folder / name, "s", ".png", [folder / "a.png"])


def test_overlays_get_names_of_their_own(folder: Path) -> None:
    photos = [folder / "x.png", folder / "x-attention.png"]
    paths = output_paths(photos, None, "attention", ".png", overlays=True).values()
    assert len({*paths, *map(overlay_path, paths)}) == 4
    with pytest.raises(ValueError, match=r"would overwrite the input .*x-attention\.png"):
        output_paths([photos[1]], folder / "x.png", "s", ".png", overlays=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_earlier_results_in_a_folder_are_left_out(folder: Path, suffix: str) -> None:
    result = folder / "elsewhere" / f"result{suffix}"
    save_image(Image.new("RGB", (4, 4)), result)
    assert result not in output_paths([folder], None, "s", ".png")
    assert result in output_paths([result], None, "s", ".png")
    with pytest.raises(ValueError, match="only results of stylize"):
        output_paths([result.parent], None, "s", ".png")


@pytest.mark.parametrize("name", ["x.heic", "x.txt", "x.svg"])
def test_an_output_that_cannot_be_written_is_refused(folder: Path, name: str) -> None:
    for photos in ([folder / "a.jpg"], [folder]):
        with pytest.raises(ValueError, match=rf"cannot write {name}: .* end in \.jpg, .*\.webp"):
            output_paths(photos, Path(name), "s", ".png")


@pytest.mark.parametrize("name", ["x.json", "new/folder/x.JSON"])
def test_a_file_that_can_be_written_is_accepted_and_not_made(name: str, tmp_path: Path) -> None:
    check_output(tmp_path / name, [".json"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "y.json").mkdir()
    for name, error, message in (
        ("x.png", ValueError, r"must end in \.json"),
        ("file/new/x.json", NotADirectoryError, "file/new"),
        ("y.json", ValueError, "it is a folder; name a file"),
    ):
        with pytest.raises(error, match=message):
            check_output(tmp_path / name, [".json"])
