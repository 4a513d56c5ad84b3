from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.paths import STREAM, output_paths


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
    photos = [folder / name for name in ("a.jpg", "a.png", "inner/a.jpg")]
    photos.append(folder / "inner" / ".." / "a.jpg")
    paths = output_paths(photos, None, "s", ".png")
    names = ["a-s.png", "a-png-s.png", "a-jpg-s.png", "a-2-s.png"]
    assert list(paths.values()) == [Path("stylized", name) for name in names]


def test_glob_patterns_are_expanded(folder: Path) -> None:
    found = output_paths([folder / "**" / "*.png"], None, "s", ".png")
    assert set(found) == {folder / "a.png", folder / "inner" / "b.png"}
    with pytest.raises(ValueError, match=r"no file matches .*\.gif"):
        output_paths([folder / "*.gif"], None, "s", ".png")


def test_existing_file_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    photo = tmp_path / "a[1].png"
    Image.new("RGB", (4, 4)).save(photo)
    assert list(output_paths([photo], None, "s", ".png")) == [photo]


def test_out_is_a_file_for_one_photo_only(folder: Path) -> None:
    photo, out = folder / "a.jpg", Path("result.WebP")
    assert output_paths([photo], out, "s", ".png") == {photo: out}
    with pytest.raises(ValueError, match=r"is for one photo, not 4"):
        output_paths([folder], out, "s", ".png")


def test_standard_streams(folder: Path) -> None:
    photo = folder / "a.jpg"
    assert output_paths([STREAM], None, "s", ".png") == {STREAM: STREAM}
    assert output_paths([photo], STREAM, "s", ".png") == {photo: STREAM}
    assert output_paths([STREAM, photo], None, "s", ".jpg") == {
        STREAM: Path("stylized/stdin-s.jpg"), photo: Path("stylized/a-s.jpg"),
    }  # fmt: skip


def test_no_photos_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one photo"):
        output_paths([], None, "s", ".png")
