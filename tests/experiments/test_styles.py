import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.experiments.styles import StylesConfig, command, list_styles
from underdrawing.trainers.stylizer import load

Folders = tuple[Path, Path]


def test_styles_are_added_listed_and_previewed(
    model_dir: Path, folders: Folders, tmp_path: Path
) -> None:
    assert list_styles(StylesConfig(model_dir)) == ()
    one, other = folders[1] / "00.png", folders[1] / "01.png"
    assert list_styles(StylesConfig(model_dir, f"night={one},day={other}")) == ("day", "night")
    assert list_styles(StylesConfig(model_dir, f"dusk={one}")) == ("day", "dusk", "night")
    out = tmp_path / "sheet.png"
    list_styles(StylesConfig(model_dir, photo=folders[0] / "00.png", out=out))
    with Image.open(out) as sheet:
        assert sheet.size == (4 * 72, 56 + 22)  # the photo and three styles


def test_a_style_of_several_paintings_is_their_mean_code(
    model_dir: Path, folders: Folders, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("01.png", "02.png"):
        shutil.copy(folders[1] / name, folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    one = folders[1] / "00.png"
    with pytest.warns(UserWarning, match=r"left out of the mean: .*broken\.png"):
        list_styles(StylesConfig(model_dir, f"all={one},{folder},single={one}"))
    stylizer = load(model_dir)
    codes = [stylizer.code(folders[1] / name) for name in ("00.png", "01.png", "02.png")]
    torch.testing.assert_close(stylizer.code("all"), torch.stack(codes).mean(0))
    torch.testing.assert_close(stylizer.code("single"), codes[0])


def test_file_and_style_names_may_hold_commas_and_are_printed_on_one_line(
    model_dir: Path, folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, model = Path(shutil.copy(folders[1] / "00.png", tmp_path / "a, b.png")), str(model_dir)
    command(["--model", model, "--add", f"a(b,c)={one},d={one},two\nlines={one}"])
    assert capsys.readouterr().out == "a(b,c)\nd\ntwo\\nlines\n"
    torch.testing.assert_close(load(model_dir).code("d"), load(model_dir).code(one))
    command(["--model", model, "--remove", "a(b,c),d"])
    assert capsys.readouterr().out == "two\\nlines\n"
    with pytest.raises(ValueError, match="no named style d; there are two\nlines"):
        list_styles(StylesConfig(model_dir, remove="d"))


def test_nothing_is_stored_or_drawn_without_paintings(model_dir: Path, folders: Folders) -> None:
    with pytest.raises(ValueError, match="no named styles: add some with --add"):
        list_styles(StylesConfig(model_dir, photo=folders[0] / "00.png"))
    with pytest.raises(ValueError, match=r"nowhere\.jpg is no image file"):
        list_styles(StylesConfig(model_dir, add="night=nowhere.jpg"))
    assert not (model_dir / "styles.safetensors").exists()


@pytest.mark.parametrize("model", [None, Path("pretrained")])
def test_shipped_model_is_not_changed(
    model: Path | None, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name it with --model"):
        list_styles(StylesConfig(model, f"night={folders[1] / '00.png'}"))
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_overwrites_no_input(model_dir: Path, folders: Folders) -> None:
    photo, painting = folders[0] / "00.png", folders[1] / "00.png"
    for out in (photo, painting):
        content = out.read_bytes()
        with pytest.raises(ValueError, match="would overwrite the input"):
            list_styles(StylesConfig(model_dir, f"night={painting}", None, photo, out))
        assert out.read_bytes() == content
    with pytest.raises(ValueError, match=r"cannot write sheet: the name must end in \.jpg"):
        list_styles(StylesConfig(model_dir, f"night={painting}", None, photo, Path("sheet")))
    assert not (model_dir / "styles.safetensors").exists()
