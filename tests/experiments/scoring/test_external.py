import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.experiments.scoring import external
from underdrawing.experiments.scoring.external import HEADER, read_manifest, read_methods
from underdrawing.experiments.scoring.protocol import PairBatch, check_aspect_ratio, read_squares

Folders = tuple[Path, Path]


def write_rows(file: Path, *rows: Sequence[object]) -> Path:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([HEADER, *rows])
    return file


@pytest.fixture
def pair(folders: Folders) -> tuple[Path, Path]:
    photos, paintings = folders
    return photos / "00.png", paintings / "01.png"


def test_written_manifest_is_read_back(folders: Folders, tmp_path: Path) -> None:
    pairs = list(zip(*(sorted(folder.iterdir())[:3] for folder in folders), strict=True))
    external.write_manifest(tmp_path / "pairs.csv", pairs)
    outputs = read_manifest(tmp_path / "pairs.csv", tmp_path / "out")
    assert list(outputs) == pairs
    assert list(outputs.values()) == [tmp_path / "out" / f"000{i}.png" for i in range(3)]


def test_paths_are_relative_to_the_manifest_or_to_the_given_folders(
    folders: Folders, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = {pair: tmp_path / "x.png"}
    for file, row, arguments in (
        (folders[0].parent / "near.csv", ["photos/00.png", "paintings/01.png", "x.png"], ()),
        (tmp_path / "far.csv", ["00.png", "01.png", "x.png"], folders),
        (tmp_path / "absolute.csv", [*pair, tmp_path / "x.png"], folders[::-1]),
    ):
        assert read_manifest(write_rows(file, row), tmp_path, *arguments) == expected


def test_manifest_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    lines = ["\ufeff" + ",".join(HEADER), '"/a, b/1.png",/c/2.png,é.png', "", ""]
    file.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    (item,) = read_manifest(file, tmp_path).items()
    assert item == ((Path("/a, b/1.png"), Path("/c/2.png")), tmp_path / "é.png")


HEAD = "photo,painting,output\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with ''; the first line must be photo,painting,output"),
        ("\x00\xff", "starts with .*; the first line"),
        ("photo;painting;output\na;b;c\n", "starts with 'photo;painting;output'; the first line"),
        ("painting,photo,output\na,b,c\n", "starts with 'painting,photo,output'; the first line"),
        (HEAD, "lists no pairs"),
        (HEAD + "{0},{1}\n", r"line 2 of .*pairs\.csv is .*; expected photo,"),
        (HEAD + "{0},{1},\n", r"line 2 of .*pairs\.csv is .*; expected photo,"),
        (HEAD + "{0},{1},a.png\n{0},{1},b.png\n", "line 3 of .* repeats the pair"),
        (HEAD + "{0},{1},none.png\n", r"none\.png"),
        (HEAD + "no.png,{1},a.png\n", r"no\.png"),
        (HEAD + "{0},no.png,a.png\n", r"no\.png"),
        (HEAD + "{0},{1},cut.png\n", r"cut\.png"),
        (HEAD + "{0},{1},square.png\n",
         r"square\.png has 56x56 pixels but its photo .*00\.png has 72x56; save outputs"),
    ],
)  # fmt: skip
def test_invalid_manifest_raises_one_line(
    text: str, message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copy(pair[0], tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(pair[0].read_bytes()[:400])
    Image.open(pair[0]).resize((56, 56)).save(tmp_path / "square.png")
    file = tmp_path / "pairs.csv"
    file.write_text(text.format(*pair), encoding="latin-1")
    with pytest.raises(ValueError, match=message) as error:
        read_methods([tmp_path], [file])
    assert "\n" not in str(error.value)


def test_folders_and_manifests_must_correspond(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "other/one"):
        (tmp_path / name).mkdir(parents=True)
    file = write_rows(tmp_path / "pairs.csv", [*pair, pair[0]])
    for folders, files, message in (
        (["one"], [], "--outputs has 1 folders but --manifest has 0 files"),
        ([], [file], "--outputs has 0 folders but --manifest has 1 files"),
        (["none"], [file], "no such folder: .*none"),
        (["one"], [tmp_path / "none.csv"], r"no such manifest: .*none\.csv"),
        (["one", "other/one"], [file, file], "two folders in --outputs are named one; rename one"),
    ):
        with pytest.raises(ValueError, match=message):
            read_methods([tmp_path / folder for folder in folders], files)


def test_methods_must_have_the_same_pairs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    photo, painting = pair
    whole = write_rows(tmp_path / "whole.csv", [*pair, photo], [painting, painting, photo])
    part = write_rows(tmp_path / "part.csv", [painting, painting, photo])
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    for files in ([whole, part], [part, whole]):
        with pytest.raises(ValueError, match=f"{photo}, {painting} is not in both") as error:
            read_methods(folders, files)
        assert all(str(file) in str(error.value) for file in files)


def test_exif_orientation_counts_for_the_aspect_ratio(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pair[0]) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    file = write_rows(tmp_path / "pairs.csv", [*pair, "turned.png"])
    methods = read_methods([tmp_path], [file])
    content = read_squares([pair[0]], 32, torch.device("cpu"))
    outputs = external.saved_outputs(methods)(PairBatch([pair], content, content))
    assert torch.equal(outputs[tmp_path.name], content)


@pytest.mark.parametrize("output", [(640, 480), (320, 240), (2560, 1920), (639, 480), (341, 256)])
def test_aspect_ratio_may_differ_by_a_pixel(output: tuple[int, int]) -> None:
    file, photo = Path("output.png"), Path("photo.png")
    check_aspect_ratio(file, photo, {file: output, photo: (640, 480)}, "outputs")
    for other in ((345, 256), (480, 640), (632, 480)):  # the last: cropped to a multiple of eight
        with pytest.raises(ValueError, match="aspect ratio"):
            check_aspect_ratio(file, photo, {file: other, photo: (640, 480)}, "outputs")
