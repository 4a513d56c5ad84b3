"""Looks are stored, listed and drawn."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from underdrawing.experiments.styles import LooksConfig, list_looks
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.trainer import train

Folders = tuple[Path, Path]


@pytest.fixture
def model(tiny: Callable[..., TrainConfig], tmp_path: Path) -> Path:
    return train(tiny(out=tmp_path / "model"))


def test_looks_are_added_listed_and_drawn(model: Path, folders: Folders, tmp_path: Path) -> None:
    assert list_looks(LooksConfig(model)) == ()
    one, other = folders[1] / "00.png", folders[1] / "01.png"
    assert list_looks(LooksConfig(model, add=f"night={one},day={other}")) == ("day", "night")
    assert list_looks(LooksConfig(model, add=f"dusk={one}")) == ("day", "dusk", "night")
    out = tmp_path / "sheet.png"
    list_looks(LooksConfig(model, photo=folders[0] / "00.png", out=out))
    with Image.open(out) as sheet:
        assert sheet.size == (4 * 72, 56 + 22)  # the photo and three looks


def test_nothing_to_draw_is_said_in_words(model: Path, folders: Folders) -> None:
    with pytest.raises(ValueError, match="no looks beside this model"):
        list_looks(LooksConfig(model, photo=folders[0] / "00.png"))


def test_a_painting_that_is_none_stores_nothing(model: Path) -> None:
    with pytest.raises(ValueError, match="no picture nowhere"):
        list_looks(LooksConfig(model, add="night=nowhere.jpg"))
    assert not (model / "looks.safetensors").exists()
