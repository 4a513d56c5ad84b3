from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.styles import StylesConfig, list_styles

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


def test_preview_needs_named_styles(model_dir: Path, folders: Folders) -> None:
    with pytest.raises(ValueError, match="no named styles: add some with --add"):
        list_styles(StylesConfig(model_dir, photo=folders[0] / "00.png"))


def test_nothing_is_stored_for_a_missing_painting(model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jpg is no image file"):
        list_styles(StylesConfig(model_dir, add="night=nowhere.jpg"))
    assert not (model_dir / "styles.safetensors").exists()


def test_shipped_model_is_not_changed(folders: Folders) -> None:
    with pytest.raises(ValueError, match="name it with --model"):
        list_styles(StylesConfig(add=f"night={folders[1] / '00.png'}"))


def test_the_sheet_overwrites_no_input(model_dir: Path, folders: Folders) -> None:
    photo, painting = folders[0] / "00.png", folders[1] / "00.png"
    for out in (photo, painting):
        content = out.read_bytes()
        with pytest.raises(ValueError, match="would overwrite the input"):
            list_styles(StylesConfig(model_dir, f"night={painting}", photo, out))
        assert out.read_bytes() == content
    with pytest.raises(ValueError, match=r"cannot write sheet: the name must end in \.jpg"):
        list_styles(StylesConfig(model_dir, f"night={painting}", photo, Path("sheet")))
    assert not (model_dir / "styles.safetensors").exists()
