"""Stylizing: style codes are kept, files are read and written beside the network's work."""

import io
import sys
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
from underdrawing.trainers.stylizer import load
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


def pixels(path: Path) -> torch.Tensor:
    return to_tensor(read_image(path))


def test_the_options_are_those_of_the_painter(
    job: StylizeConfig, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    photo, mask = folders[0] / "00.png", tmp_path / "mask.png"
    half = Image.new("L", (30, 20))
    half.paste(255, (15, 0, 30, 20))
    half.save(mask)
    a, b = folders[1] / "00.png", folders[1] / "01.png"
    stylizer = load(job.model, "cpu")
    one = replace(job, photos=(photo,), out=tmp_path / "out.png")
    mixed, regions = {str(a): 0.7, str(b): 0.3}, {"black": str(a), "white": str(b)}
    for options, expected in [
        ({"strength": 0.5}, stylizer.stylize(photo, a, 0.5)),
        ({"keep_colors": True}, stylizer.stylize(photo, a, keep_colors=True)),
        ({"protect": str(mask)}, stylizer.stylize(photo, a, protect=mask)),
        ({"protect": "attention"}, stylizer.stylize(photo, a, protect="attention")),
        ({"style": None, "mix": f"{a}:0.7,{b}:0.3"}, stylizer.stylize(photo, mixed)),
        (
            {"mask": mask, "style": f"black={a},white={b}"},
            stylizer.stylize(photo, regions, mask=mask),
        ),
    ]:
        (written,) = stylize(replace(one, **options))  # type: ignore[arg-type]
        assert written == tmp_path / "out.png"
        assert torch.equal(pixels(written), to_tensor(expected)), options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": None}, "one style with --style, or several with --mix"),
        ({"mix": "a:1"}, "one style with --style, or several with --mix"),
        ({"mask": Path("m.png")}, "write KEY=STYLE"),
        ({"mask": Path("m.png"), "style": None, "mix": "a:1"}, "not with --mix"),
        ({"protect": "nowhere.png"}, "there is no picture nowhere.png"),
        ({"style": "nowhere"}, "there is no picture nowhere"),
        ({"out": Path("-"), "photos": (Path("a.png"),), "attention": True}, "second picture"),
    ],
)
def test_contradictions_are_said_before_anything_is_painted(
    job: StylizeConfig, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        stylize(replace(job, **options))  # type: ignore[arg-type]


def test_a_masks_colors_are_checked_before_anything_is_painted(
    job: StylizeConfig, folders: tuple[Path, Path]
) -> None:
    styles = f"mauvish={job.style},white={job.style}"
    with pytest.raises(ValueError, match="'mauvish' is no color"):
        stylize(replace(job, mask=folders[0] / "00.png", style=styles))


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(job: StylizeConfig, folders: tuple[Path, Path], name: str, kind: str) -> None:
    job = replace(job, photos=(folders[0] / "00.png",), format=name)  # type: ignore[arg-type]
    (written,) = stylize(replace(job, attention=True))
    beside = written.with_stem(f"{written.stem}-attention")
    with Image.open(written) as image, Image.open(beside) as shown:
        assert (image.format, shown.format) == (kind, kind)
        assert image.size == shown.size == (72, 56)


def test_results_are_upright(job: StylizeConfig, tmp_path: Path) -> None:
    photo = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "red").save(photo, exif=exif)
    (written,) = stylize(replace(job, photos=(photo,)))
    with Image.open(written) as image:
        assert image.size == (40, 64)
        assert image.getexif().get(0x0112, 1) == 1


def test_from_standard_input_to_standard_output(
    job: StylizeConfig, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = folders[0] / "00.png"
    (written,) = stylize(replace(job, photos=(photo,)))
    result = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(result, write_through=True))
    assert stylize(replace(job, photos=(Path("-"),), out=None)) == [Path("-")]
    assert result.getvalue() == written.read_bytes()


def test_what_comes_from_standard_input_is_named(
    job: StylizeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no picture")))
    with pytest.raises(ValueError, match="1 of 1 photos"):
        stylize(replace(job, photos=(Path("-"),), out=None))
    assert "standard input is not a picture" in capsys.readouterr().err
