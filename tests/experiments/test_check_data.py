"""``underdrawing data check`` as a user meets it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.check_data import command

Check = Callable[..., int]


def paint(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (64 + number, 64), (number, 0, 0)).save(path)
    return paths


@pytest.fixture
def check() -> Check:
    """``check(folder)``: exit code of the command."""

    def call(*words: object) -> int:
        with pytest.raises(SystemExit) as end:
            command(["check", *map(str, words)])
        return int(end.value.code or 0)

    return call


def test_a_good_folder(check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path / "photos", 9)
    assert check(tmp_path / "photos") == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "photos"),
        "9 readable pictures, the smallest 64x64 pixels, the middle one 68x64, the largest 72x64",
        "split: 3 train, 3 validation, 3 test",
        "Training would use all of this folder.",
    ]


def test_bad_files_are_named_with_advice(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = paint(tmp_path / "photos", 30)
    for path in paths[:4]:
        path.write_bytes(b"")
    paths[9].rename(paths[9].with_name("two\nlines.png"))
    paths[9].with_name("two\nlines.png").write_bytes(b"no picture")
    assert check(tmp_path / "photos") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split("  ")[0] == "kind"
    assert " ".join(lines[4].split()) == "empty 4 left out copy it again from where it came"
    assert lines[5].strip() == "00.png, 01.png, 02.png and 1 more"
    assert lines[6].startswith("no picture  1")
    assert lines[7].strip() == r"two\nlines.png"
    assert lines[8] == "Training would use this folder without 5 of its files."


def test_a_folder_that_training_would_refuse(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "photos", 9)
    assert check(tmp_path / "photos", tmp_path / "nowhere") == 2
    assert "Training would refuse this folder: there is no folder" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_the_findings_as_json(check: Check, tmp_path: Path) -> None:
    paint(tmp_path / "photos", 9)
    name = tmp_path / "photos" / os.fsdecode(b"\xff.jpg")
    name.write_bytes(b"no picture")
    assert check(tmp_path / "photos", "--json", tmp_path / "out.json") == 1
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["code"] == 1
    assert record["pictures"] == 9
    assert record["split"] == {"train": 4, "validation": 2, "test": 3}
    assert record["sizes"] == [[64, 64], [68, 64], [72, 64]]
    assert record["found"] == {
        "no picture": {
            "in_training": "left out",
            "what_to_do": "remove it, or save it as JPEG or PNG",
            "files": [str(name)],
        }
    }


@pytest.mark.parametrize("words", [[], ["chekc"], ["chekc", "--help"], ["check"]])
def test_another_word_is_refused_in_a_sentence(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"underdrawing data check DIR"):
        command(words)


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command(words)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "usage: underdrawing data check" in text
    assert "--json" in text
