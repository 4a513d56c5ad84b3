import errno
import io
import re
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
from underdrawing.experiments.main import main
from underdrawing.experiments.stylize import (
    AHEAD,
    StylizeConfig,
    parse_mix,
    parse_pairs,
    prefetch_map,
    stylize,
)
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model
from underdrawing.trainers.stylizer import Stylizer, default_stroke_size, load


@pytest.fixture
def job(model_dir: Path, folders: tuple[Path, Path], tmp_path: Path) -> StylizeConfig:
    """All photos in the style of one painting."""
    return StylizeConfig(
        photos=(folders[0],), style=str(folders[1] / "00.png"), model=model_dir,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip


@pytest.fixture
def photo(folders: tuple[Path, Path]) -> Path:
    return folders[0] / "00.png"


def pixels(path: Path) -> torch.Tensor:
    return to_tensor(read_image(path))


def test_results_are_in_order_and_equal_the_generator(job: StylizeConfig) -> None:
    written = stylize(job)
    photos = sorted(job.photos[0].iterdir())
    assert [path.name for path in written] == [f"{photo.stem}-00.png" for photo in photos]
    assert job.model
    assert job.style
    generator, code = load_model(job.model).generator, load(job.model, "cpu").code(job.style)
    with torch.inference_mode():
        expected = generator(pixels(photos[3])[None], code).image[0]
    assert (pixels(written[3]) - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_bad_photos_are_reported_and_skipped(
    job: StylizeConfig, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "two\nlines, bad.jpg"
    bad.write_text("no image")
    with pytest.raises(ValueError, match="1 of 2 photos could not be stylized"):
        stylize(replace(job, photos=(bad, photo)))
    assert (tmp_path / "out" / "00-00.png").is_file()
    assert "skipped: " in (error := capsys.readouterr().err)
    assert r"two\nlines, bad.jpg" in error


def test_name_with_a_newline_is_printed_on_one_line(
    job: StylizeConfig, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stylize(replace(job, photos=(photo,), out=tmp_path / "two\nlines.png"))
    assert capsys.readouterr().out == f"{tmp_path}/two\\nlines.png\n"


def test_photo_larger_than_memory_is_skipped(
    job: StylizeConfig, photo: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="2 of 2 photos"):
        stylize(replace(job, photos=(photo, photo.with_name("01.png"))))
    assert "00.png is 72x56 pixels: stylizing it needs" in capsys.readouterr().err
    monkeypatch.setattr(module, "free_memory", lambda device: 210 * 72 * 56)
    with pytest.raises(ValueError, match=r"00\.png is 72x56 pixels: .* or --stroke-size 2$"):
        stylize(replace(job, photos=(photo,)))
    stylize(replace(job, photos=(photo,), stroke_size=1.5))


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


def test_results_that_cannot_be_written_do_not_stop_the_others(
    job: StylizeConfig, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wide, long = tmp_path / "wide.png", tmp_path / f"{'n' * 245}.png"
    Image.new("RGB", (100, 40)).save(wide)
    long.write_bytes(photo.read_bytes())
    (tmp_path / "out" / "blocked-00.webp").mkdir(parents=True)
    blocked = tmp_path / "blocked.png"
    blocked.write_bytes(photo.read_bytes())
    monkeypatch.setitem(MAX_SIDES, "WEBP", 90)
    with pytest.raises(ValueError, match="3 of 4 photos could not be stylized"):
        stylize(replace(job, photos=(wide, long, blocked, photo), format="webp"))
    output, error = capsys.readouterr()
    assert output == f"{tmp_path / 'out' / '00-00.webp'}\n"
    assert (tmp_path / "out" / "00-00.webp").is_file()
    messages = [line for line in error.splitlines() if "skipped" in line]
    assert "wide.png: WEBP images have at most 90 pixels per side, not 100" in messages[0]
    assert f"{long.stem}-00.webp: File name too long" in messages[1]
    assert "blocked-00.webp: Is a directory" in messages[2]


def test_impossible_formats_are_found_before_stylizing(
    job: StylizeConfig, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_SIDES, "JPEG", 60)
    monkeypatch.setattr(Stylizer, "stylize", None)
    with pytest.raises(ValueError, match=r"00\.png: JPEG images have at most 60 pixels"):
        stylize(replace(job, photos=(photo,), format="jpeg"))


def test_a_full_disk_ends_the_batch(job: StylizeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def save(image: Image.Image, path: Path) -> None:
        tried.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_image", save)
    with pytest.raises(OSError, match="No space left"):
        stylize(job)
    assert len(tried) <= 1 + module.AHEAD


def test_one_photo_without_memory_is_skipped(
    job: StylizeConfig, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stylizer, "stylize", fail)
    with pytest.raises(ValueError, match=r"00\.png: out of memory: use a smaller photo"):
        stylize(replace(job, photos=(photo,)))


@pytest.mark.parametrize("role", ["photo", "style", "mask", "protect"])
def test_no_input_is_overwritten(
    job: StylizeConfig, photo: Path, folders: tuple[Path, Path], role: str
) -> None:
    other, style = photo.with_name("01.png"), folders[1] / "01.png"
    regions = f"black={style},white={folders[1] / '00.png'}"
    out, options = {
        "photo": (photo, {}), "style": (Path(str(job.style)), {}),
        "mask": (other, {"mask": other, "style": regions}),
        "protect": (other, {"protect": str(other)}),
    }[role]  # fmt: skip
    content = out.read_bytes()
    with pytest.raises(ValueError, match="would overwrite the input"):
        stylize(replace(job, photos=(photo,), out=out, **options))  # type: ignore[arg-type]
    assert out.read_bytes() == content


def test_stylizing_a_folder_twice_gives_the_same_files(
    job: StylizeConfig, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(photo.parent, tmp_path / "photos"))
    for out in (None, Path("sub/results"), Path()):
        again = replace(job, photos=(Path(),), out=out)
        assert stylize(again) == stylize(again)


def test_unwritable_output_is_an_os_error(job: StylizeConfig, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file instead of a folder")
    with pytest.raises(OSError, match="blocked"):
        stylize(replace(job, out=tmp_path / "blocked"))


def test_options_equal_the_arguments_of_the_stylizer(
    job: StylizeConfig, photo: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    mask = tmp_path / "mask.png"
    half = Image.new("L", (36, 28))
    half.paste(255, (18, 0, 36, 28))
    half.save(mask)
    a, b = folders[1] / "00.png", folders[1] / "01.png"
    stylizer = load(job.model, "cpu")
    one = replace(job, photos=(photo,), out=tmp_path / "out.png")
    mixed, regions = {str(a): 0.7, str(b): 0.3}, {"black": str(a), "white": str(b)}
    for options, expected in [
        ({"strength": 0.5}, stylizer.stylize(photo, a, 0.5)),
        ({"keep_colors": True}, stylizer.stylize(photo, a, keep_colors=True)),
        ({"stroke_size": 1.5}, stylizer.stylize(photo, a, stroke_size=1.5)),
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


def test_default_stroke_size_is_in_proportion_to_the_shorter_side() -> None:
    sizes = {(72, 56): 1, (9000, 768): 1, (1536, 2000): 2, (4000, 3000): 3000 / 768}
    assert {size: default_stroke_size(*size) for size in sizes} == sizes


@pytest.mark.parametrize("value", ["0", "-1", "0.9", "nan", "large"])
def test_wrong_stroke_sizes_are_one_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", f"u stylize a.jpg --style b --stroke-size {value}".split())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"underdrawing stylize: .*stroke.size.*\b(equal to 1|finite|float|help)", line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": None}, "either one style with --style, or several with --mix"),
        ({"mix": "a:1"}, "either one style with --style, or several with --mix"),
        ({"mask": Path("m.png")}, "write KEY=STYLE"),
        ({"mask": Path("m.png"), "style": None, "mix": "a:1"}, "instead of --mix"),
        ({"protect": "nowhere.png"}, r"nowhere\.png"),
        ({"style": "nowhere"}, "nowhere is no image file"),
        ({"out": Path("-"), "photos": (Path("a.png"),), "attention": True}, "second image"),
        ({"strength": 1.5}, "must be less than or equal to 1|should be less"),
        ({}, "'mauvish' is no color"),
    ],
)
def test_invalid_options_are_refused_before_any_photo(
    job: StylizeConfig, photo: Path, options: dict[str, object], message: str
) -> None:
    colors = {"mask": photo, "style": f"mauvish={job.style},white={job.style}"}
    with pytest.raises(ValueError, match=message):
        stylize(replace(job, **options or colors))  # type: ignore[arg-type]
    assert job.out
    assert not job.out.exists()


@pytest.mark.parametrize("options", [{"attention": True}, {"protect": "attention"}])
def test_attention_of_a_model_without_a_branch_is_refused_before_any_photo(
    job: StylizeConfig, options: dict[str, Any], tiny: Callable[..., TrainConfig],
    write_model: Callable[..., Path],
) -> None:  # fmt: skip
    model = write_model(tiny("multi-layer"))
    with pytest.raises(ValueError, match="this model has no attention map"):
        stylize(replace(job, model=model, **options))
    assert job.out
    assert not job.out.exists()


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_format_and_attention_overlay(
    job: StylizeConfig, photo: Path, name: str, kind: str
) -> None:
    (written,) = stylize(replace(job, photos=(photo,), format=name, attention=True))  # type: ignore[arg-type]
    beside = written.with_stem(f"{written.stem}-attention")
    with Image.open(written) as image, Image.open(beside) as overlay:
        assert (image.format, overlay.format) == (kind, kind)
        assert image.size == overlay.size == (72, 56)


def test_standard_input_to_standard_output(
    job: StylizeConfig, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written,) = stylize(replace(job, photos=(photo,)))
    result = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(result, write_through=True))
    assert stylize(replace(job, photos=(Path("-"),), out=None)) == [Path("-")]
    assert result.getvalue() == written.read_bytes()


def test_parse_mix() -> None:
    assert parse_mix("a.jpg:0.7,night:3") == {"a.jpg": 0.7, "night": 3.0}
    assert parse_mix("C:\\a.jpg:1") == {"C:\\a.jpg": 1.0}
    assert parse_mix("a,b:c.jpg:1,d=e,f.jpg:.5") == {"a,b:c.jpg": 1.0, "d=e,f.jpg": 0.5}
    for text in ("", "a.jpg", "a:", "a:x", ":1", "a:1,", "a:1,a:2", "a:1,b", "a:1-2"):
        with pytest.raises(ValueError, match="STYLE:WEIGHT"):
            parse_mix(text)


def test_parse_pairs() -> None:
    assert parse_pairs("black=a.jpg,#fff=b=c.jpg") == {"black": "a.jpg", "#fff": "b=c.jpg"}
    assert parse_pairs("red=a, b.jpg,x=c,d.jpg") == {"red": "a, b.jpg", "x": "c,d.jpg"}
    assert parse_pairs("rgb(1,2,3)=a,#fff=b") == {"rgb(1,2,3)": "a", "#fff": "b"}
    for text in ("", "a", "a=", "=a", "a=b,", "a=b,a=c"):
        with pytest.raises(ValueError, match="KEY=STYLE"):
            parse_pairs(text)


def test_prefetched_results_are_in_order_and_at_most_ahead_calls_start_early() -> None:
    with ThreadPoolExecutor(3) as pool:
        started: list[int] = []
        assert list(prefetch_map(pool, str, range(20))) == [str(i) for i in range(20)]
        list(islice(prefetch_map(pool, started.append, range(50)), 10))
        assert len(started) <= 10 + AHEAD
        results = prefetch_map(pool, lambda i: 1 // i, [2, 1, 0, 1])
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
