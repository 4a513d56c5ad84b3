import errno
import io
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from underdrawing.data.images import MAX_SIDES, read_image, to_tensor
from underdrawing.experiments import stylize as module
from underdrawing.experiments.stylize import AHEAD, StylizeConfig, parse_mix, parse_pairs, stylize
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model
from underdrawing.trainers.stylizer import Stylizer, default_stroke_size, load

Folders = tuple[Path, Path]
OUT = Path("out")


@pytest.fixture
def job(
    model_dir: Path, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StylizeConfig:
    """One photo in the style of one painting, in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return StylizeConfig(
        photos=(folders[0] / "00.png",), style=str(folders[1] / "00.png"), model=model_dir,
        out=OUT, device="cpu",
    )  # fmt: skip


def pixels(path: Path) -> torch.Tensor:
    return to_tensor(read_image(path))


def test_results_are_in_order_and_equal_the_generator(job: StylizeConfig, folders: Folders) -> None:
    written = stylize(replace(job, photos=(folders[0],)))
    photos = sorted(folders[0].iterdir())
    assert written == [OUT / f"{photo.stem}-00.png" for photo in photos]
    assert job.model
    generator = load_model(job.model).generator
    code = load(job.model, "cpu").code(folders[1] / "00.png")
    with torch.inference_mode():
        expected = generator(pixels(photos[3])[None], code).image[0]
    assert (pixels(written[3]) - expected).abs().max() <= 0.5 / 255 + 1e-6


# -- photos that fail -----------------------------------------------------------------------------


def test_photos_that_cannot_be_read_or_written_are_named_on_one_line_and_skipped(
    job: StylizeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["bad\nfile, 1.jpg", "wide.png", f"{'n' * 245}.png", "blocked.png", "good\nfile.png"]
    bad, wide, *others = map(Path, names)
    bad.write_text("no image")
    Image.new("RGB", (100, 40)).save(wide)
    for path in others:
        shutil.copy(job.photos[0], path)
    (OUT / "blocked-00.webp").mkdir(parents=True)
    monkeypatch.setitem(MAX_SIDES, "WEBP", 90)
    with pytest.raises(ValueError, match="4 of 5 photos could not be stylized"):
        stylize(replace(job, photos=(bad, wide, *others), format="webp"))
    output, error = capsys.readouterr()
    assert output == f"{OUT}/good\\nfile-00.webp\n"
    assert (OUT / "good\nfile-00.webp").is_file()
    messages = [line for line in error.splitlines() if "skipped: " in line]
    for message, expected in zip(
        messages,
        (
            r"bad\nfile, 1.jpg", "wide.png: WEBP images have at most 90 pixels per side, not 100",
            f"{'n' * 245}-00.webp: File name too long", "blocked-00.webp: Is a directory",
        ),
        strict=True,
    ):  # fmt: skip
        assert expected in message


def test_photos_larger_than_memory_are_skipped(
    job: StylizeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="2 of 2 photos"):
        stylize(replace(job, photos=(*job.photos, job.photos[0].with_name("01.png"))))
    assert "00.png is 72x56 pixels: stylizing it needs" in capsys.readouterr().err
    monkeypatch.setattr(module, "free_memory", lambda device: 210 * 72 * 56)
    with pytest.raises(ValueError, match=r"00\.png is 72x56 pixels: .* or --stroke-size 2$"):
        stylize(job)
    stylize(replace(job, stroke_size=1.5))

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stylizer, "stylize", fail)  # the estimate was too low
    with pytest.raises(ValueError, match=r"00\.png: out of memory: use a smaller photo"):
        stylize(replace(job, stroke_size=1.5))


@pytest.mark.parametrize(
    ("size", "stroke_size", "measured"),  # measured: bytes per pixel, most of all options
    [
        ((4000, 3000), None, 149), ((4000, 3000), 1, 261), ((4000, 3000), 2, 109),
        ((8192, 8192), None, 105), ((2048, 2048), None, 165), ((2048, 2048), 1, 234),
        ((2048, 2048), 2, 173),
    ],
)  # fmt: skip
def test_memory_estimate_covers_the_measured_peaks(
    size: tuple[int, int], stroke_size: float | None, measured: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = Path("a.jpg"), size, stroke_size, torch.device("cpu")
    peak = size[0] * size[1] * measured
    monkeypatch.setattr(module, "free_memory", lambda device: peak - 1)
    with pytest.raises(ValueError, match=r"a\.jpg is \d+x\d+ pixels") as refusal:
        module.check_memory(*arguments)
    assert str(refusal.value).endswith(" or --stroke-size 2") == (stroke_size == 1)
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * peak)
    module.check_memory(*arguments)


def test_a_full_disk_ends_the_batch(
    job: StylizeConfig, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def save(image: Image.Image, path: Path) -> None:
        tried.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_image", save)
    with pytest.raises(OSError, match="No space left"):
        stylize(replace(job, photos=(folders[0],)))
    assert len(tried) <= 1 + AHEAD


# -- refusals before any photo is stylized --------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": None}, "either one style with --style, or several with --mix"),
        ({"mix": "a:1"}, "either one style with --style, or several with --mix"),
        ({"mask": Path("m.png")}, "write KEY=STYLE"),
        ({"mask": Path("m.png"), "style": None, "mix": "a:1"}, "instead of --mix"),
        ({"protect": "nowhere.png"}, r"nowhere\.png"),
        ({"style": "nowhere"}, "nowhere is no image file"),
        ({"out": Path("-"), "attention": True}, "second image"),
        ({"strength": 1.5}, "must be less than or equal to 1|should be less"),
        ({"stroke_size": 0.9}, "greater than or equal to 1"),
        ({"stroke_size": float("nan")}, "finite"),
        ({"mask": Path("m.png"), "style": "mauvish={0},white={0}"}, "'mauvish' is no color"),
        ({"out": Path("file")}, "file"),
        ({"format": "jpeg"}, r"00\.png: JPEG images have at most 60 pixels"),
    ],
)
def test_impossible_options_are_refused_before_stylizing(
    job: StylizeConfig, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_SIDES, "JPEG", 60)
    monkeypatch.setattr(Stylizer, "stylize", None)
    Image.new("RGB", (8, 8)).save("m.png")
    Path("file").touch()
    if options.get("style"):
        options = options | {"style": options["style"].format(job.style)}
    with pytest.raises((ValueError, OSError), match=message):
        stylize(replace(job, **options))
    assert not OUT.exists()


@pytest.mark.parametrize("options", [{"attention": True}, {"protect": "attention"}])
def test_attention_of_a_model_without_a_branch_is_refused_before_any_photo(
    job: StylizeConfig, options: dict[str, Any], tiny: Callable[..., TrainConfig],
    write_model: Callable[..., Path],
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match="this model has no attention map"):
        stylize(replace(job, model=write_model(tiny("multi-layer")), **options))
    assert not OUT.exists()


@pytest.mark.parametrize("role", ["photo", "style", "mask", "protect"])
def test_no_input_is_overwritten(job: StylizeConfig, folders: Folders, role: str) -> None:
    (photo,), other, style = job.photos, folders[0] / "01.png", folders[1] / "01.png"
    roles: dict[str, dict[str, Any]] = {
        "photo": {"out": photo}, "style": {"out": Path(str(job.style))},
        "mask": {"out": other, "mask": other, "style": f"black={style},white={job.style}"},
        "protect": {"out": other, "protect": str(other)},
    }  # fmt: skip
    options = roles[role]
    content = options["out"].read_bytes()
    with pytest.raises(ValueError, match="would overwrite the input"):
        stylize(replace(job, **options))
    assert options["out"].read_bytes() == content


# -- results --------------------------------------------------------------------------------------


def test_stylizing_a_folder_twice_gives_the_same_files(
    job: StylizeConfig, folders: Folders
) -> None:
    for name in ("00.png", "01.png"):
        shutil.copy(folders[0] / name, name)
    for out in (None, Path("sub/results"), Path()):
        again = replace(job, photos=(Path(),), out=out)
        assert stylize(again) == stylize(again)


def test_options_equal_the_arguments_of_the_stylizer(job: StylizeConfig, folders: Folders) -> None:
    (photo,), mask, out = job.photos, Path("mask.png"), Path("out.png")
    half = Image.new("L", (36, 28))
    half.paste(255, (18, 0, 36, 28))
    half.save(mask)
    a, b = str(folders[1] / "00.png"), str(folders[1] / "01.png")
    stylizer = load(job.model, "cpu")
    mixed = stylizer.stylize(photo, {a: 0.7, b: 0.3})
    regions = stylizer.stylize(photo, {"black": a, "white": b}, mask=mask)
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"strength": 0.5}, stylizer.stylize(photo, a, 0.5)),
        ({"keep_colors": True}, stylizer.stylize(photo, a, keep_colors=True)),
        ({"stroke_size": 1.5}, stylizer.stylize(photo, a, stroke_size=1.5)),
        ({"protect": str(mask)}, stylizer.stylize(photo, a, protect=mask)),
        ({"protect": "attention"}, stylizer.stylize(photo, a, protect="attention")),
        ({"style": None, "mix": f"{a}:0.7,{b}:0.3"}, mixed),
        ({"mask": mask, "style": f"black={a},white={b}"}, regions),
    ]  # fmt: skip
    for options, expected in cases:
        assert stylize(replace(job, out=out, **options)) == [out]
        assert torch.equal(pixels(out), to_tensor(expected)), options


def test_default_stroke_size_is_in_proportion_to_the_shorter_side() -> None:
    sizes = {(72, 56): 1, (9000, 768): 1, (1536, 2000): 2, (4000, 3000): 3000 / 768}
    assert {size: default_stroke_size(*size) for size in sizes} == sizes


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_format_and_attention_overlay(job: StylizeConfig, name: Any, kind: str) -> None:
    (written,) = stylize(replace(job, format=name, attention=True))
    beside = written.with_stem(f"{written.stem}-attention")
    with Image.open(written) as image, Image.open(beside) as overlay:
        assert (image.format, overlay.format) == (kind, kind)
        assert image.size == overlay.size == (72, 56)


def test_standard_input_to_standard_output(
    job: StylizeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo,), (written,), result = job.photos, stylize(job), io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(result, write_through=True))
    assert stylize(replace(job, photos=(Path("-"),), out=None)) == [Path("-")]
    assert result.getvalue() == written.read_bytes()


def test_lists_of_styles_may_hold_file_names_with_separators() -> None:
    assert parse_mix("a.jpg:0.7,night:3") == {"a.jpg": 0.7, "night": 3.0}
    assert parse_mix("C:\\a.jpg:1") == {"C:\\a.jpg": 1.0}
    assert parse_mix("a,b:c.jpg:1,d=e,f.jpg:.5") == {"a,b:c.jpg": 1.0, "d=e,f.jpg": 0.5}
    for text in ("", "a.jpg", "a:", "a:x", ":1", "a:1,", "a:1,a:2", "a:1,b", "a:1-2"):
        with pytest.raises(ValueError, match="STYLE:WEIGHT"):
            parse_mix(text)
    assert parse_pairs("black=a.jpg,#fff=b=c.jpg") == {"black": "a.jpg", "#fff": "b=c.jpg"}
    assert parse_pairs("red=a, b.jpg,x=c,d.jpg") == {"red": "a, b.jpg", "x": "c,d.jpg"}
    assert parse_pairs("rgb(1,2,3)=a,#fff=b") == {"rgb(1,2,3)": "a", "#fff": "b"}
    for text in ("", "a", "a=", "=a", "a=b,", "a=b,a=c"):
        with pytest.raises(ValueError, match="KEY=STYLE"):
            parse_pairs(text)


def test_prefetched_results_are_in_order_and_at_most_ahead_calls_start_early() -> None:
    with ThreadPoolExecutor(3) as pool:
        started: list[int] = []
        assert list(module.prefetch_map(pool, str, range(20))) == [str(i) for i in range(20)]
        list(islice(module.prefetch_map(pool, started.append, range(50)), 10))
        assert len(started) <= 10 + AHEAD
        results = module.prefetch_map(pool, lambda i: 1 // i, [2, 1, 0, 1])
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
