import json
import os
from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.check_data import command


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A folder of 9 photos."""
    paths = [tmp_path / "photos" / f"{number:02}.png" for number in range(9)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.new("RGB", (64 + number, 64), (number, 0, 0)).save(path)
    return paths


def check(*arguments: object) -> int:
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as end:
        command([*map(str, arguments)])
    return int(end.value.code or 0)


def test_good_folder_has_exit_code_0(
    photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(photos[0].parent) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(photos[0].parent),
        "9 readable images; pixels: smallest 64x64, median 68x64, largest 72x64",
        "split: 3 train, 3 validation, 3 test (a small folder: added images may move others)",
        "Training would use all images of this folder.",
    ]


def test_files_left_out_are_named_with_advice(
    photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos[0].parent
    for number in range(30):
        Image.new("RGB", (64, 64), (0, number, 9)).save(folder / f"more-{number}.png")
    for path in photos[:4]:
        path.write_bytes(b"")
    (folder / "two\nlines.png").write_bytes(b"not an image")
    assert check(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["kind", "files", "in", "training", "advice", "names"]
    empty = "empty 4 left out copy it again from its source 00.png, 01.png, 02.png, and 1 more"
    assert " ".join(lines[4].split()) == empty
    assert lines[5].startswith("not an image")
    assert lines[5].endswith(r"two\nlines.png")
    assert lines[6] == "Training would leave out 5 files of this folder."


def test_refused_folder_has_exit_code_2(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(photos[0].parent, tmp_path / "missing") == 2
    assert "Training would refuse this folder: there is no folder" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no folder given: underdrawing check-data PHOTOS"):
        command([])
    with pytest.raises(ValueError, match=r"must end in \.json"):  # and replace no image
        check(photos[0].parent, "--json", photos[0])


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_json_lists_all_files(photos: list[Path], tmp_path: Path) -> None:
    name = photos[0].parent / os.fsdecode(b"\xff.jpg")
    name.write_bytes(b"not an image")
    assert check(name.parent, "--json", tmp_path / "out.json") == 1
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {
            "folder": str(name.parent), "code": 1, "refusal": "", "images": 9,
            "sizes": [[64, 64], [68, 64], [72, 64]],
            "split": {"train": 3, "validation": 3, "test": 3},
            "found": {"not an image": [str(name)]},
        }
    ]  # fmt: skip
