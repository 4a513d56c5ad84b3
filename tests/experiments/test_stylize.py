"""Stylising: style codes are kept, files are read and written beside the network's work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.data.images import read_image, to_tensor
from underdrawing.experiments import stylize as module
from underdrawing.experiments.stylize import StylizeConfig, stylize
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model
from underdrawing.trainers.painter import load
from underdrawing.trainers.trainer import train

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def job(tiny: Tiny, folders: tuple[Path, Path], tmp_path: Path) -> StylizeConfig:
    """All photos in the manner of one painting."""
    model = train(tiny(out=tmp_path / "model"))
    return StylizeConfig(
        photos=(folders[0],), style=str(folders[1] / "00.png"), model=model, out=tmp_path / "out",
        device="cpu",
    )  # fmt: skip


def test_photos_come_out_in_order_and_as_the_generator_paints_them(job: StylizeConfig) -> None:
    written = stylize(job)
    photos = sorted(job.photos[0].iterdir())
    assert [path.name for path in written] == [f"{photo.stem}-00.png" for photo in photos]
    assert job.model
    assert job.style
    generator, code = load_model(job.model).generator, load(job.model, "cpu").code(job.style)
    with torch.inference_mode():
        expected = generator(to_tensor(read_image(photos[3]))[None], code).image[0]
    assert (to_tensor(Image.open(written[3])) - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_a_photo_larger_than_memory_is_refused_in_words(
    job: StylizeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="12 of 12 photos"):
        stylize(job)
    assert "00.png is 72x56 pixels; stylizing it takes" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_ends_the_command(
    job: StylizeConfig, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="blocked"):
        stylize(replace(job, out=blocked))


def test_strength_is_between_nothing_and_everything(job: StylizeConfig) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        stylize(replace(job, strength=1.5))
