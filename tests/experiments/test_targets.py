"""Where results go."""

from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.targets import STREAM, find_targets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "a.png", "inner/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_folders_keep_their_structure_and_names_stay_apart(folder: Path) -> None:
    out = Path("out")
    assert find_targets([folder], out, "s", ".webp") == {
        folder / "a.jpg": out / "a-s.webp",
        folder / "a.png": out / "a-png-s.webp",
        folder / "inner" / "b.png": out / "inner" / "b-s.webp",
    }


def test_patterns_are_the_programs_where_the_shell_leaves_them(folder: Path) -> None:
    found = find_targets([folder / "**" / "*.png"], None, "s", ".png")
    assert set(found) == {folder / "a.png", folder / "inner" / "b.png"}
    assert found[folder / "a.png"] == Path("stylized", "a-s.png")
    with pytest.raises(ValueError, match=r"no file like .*\.gif"):
        find_targets([folder / "*.gif"], None, "s", ".png")


def test_a_file_with_brackets_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    photo = tmp_path / "a[1].png"
    Image.new("RGB", (4, 4)).save(photo)
    assert list(find_targets([photo], None, "s", ".png")) == [photo]


def test_out_may_name_a_file_for_one_photo(folder: Path) -> None:
    one, out = folder / "a.jpg", Path("result.WebP")
    assert find_targets([one], out, "s", ".png") == {one: out}
    with pytest.raises(ValueError, match=r"for one photo, and there are 3"):
        find_targets([folder], out, "s", ".png")


def test_the_standard_streams(folder: Path) -> None:
    one = folder / "a.jpg"
    assert find_targets([STREAM], None, "s", ".png") == {STREAM: STREAM}
    assert find_targets([one], STREAM, "s", ".png") == {one: STREAM}
    assert find_targets([STREAM], Path("out"), "s", ".jpg") == {STREAM: Path("out/stdin-s.jpg")}
    assert find_targets([STREAM, one], None, "s", ".jpg") == {
        STREAM: Path("stylized/stdin-s.jpg"), one: Path("stylized/a-s.jpg"),
    }  # fmt: skip


def test_no_photos_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one photo"):
        find_targets([], None, "s", ".png")
