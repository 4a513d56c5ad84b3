"""The page: what it answers, and clicking through it in a browser."""

import io
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from underdrawing.data.images import read_image
from underdrawing.experiments import app, app_answers, app_page
from underdrawing.experiments.app_screenshot import browser, brush, find_chromium, pick_look
from underdrawing.experiments.demo.app_answers import (
    Visits,
    Worker,
    kept_region,
    read_photo,
    read_upload,
)
from underdrawing.experiments.main import main
from underdrawing.experiments.styles import LooksConfig, list_looks
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.stylizer import Stylizer, load
from underdrawing.trainers.trainer import train

Folders = tuple[Path, Path]


@pytest.fixture
def model(tiny: Callable[..., TrainConfig], folders: Folders, tmp_path: Path) -> Path:
    """A run folder with two looks."""
    run = train(tiny(out=tmp_path / "model"))
    one, other = folders[1] / "00.png", folders[1] / "01.png"
    list_looks(LooksConfig(run, add=f"day={one},night={other}"))
    return run


@pytest.fixture
def stylizer(model: Path) -> Stylizer:
    """With a brush: so short a training leaves the paint at nearly nothing."""
    stylizer = load(model, "cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(stylizer.generator.paint.conv.weight, std=0.2)
    return stylizer


@pytest.fixture
def photo(folders: Folders, tmp_path: Path) -> Path:
    """A photo of 320x240 pixels."""
    path = tmp_path / "photo.png"
    Image.open(folders[0] / "00.png").resize((320, 240)).save(path)
    return path


def strokes(*box: int) -> Image.Image:
    """The brush's layer over a 160x120 canvas, with one box brushed over."""
    layer = Image.new("RGBA", (160, 120))
    if box:
        ImageDraw.Draw(layer).rectangle(box, fill=(230, 90, 10, 170))
    return layer


def test_what_is_painted_is_what_the_painter_paints(
    stylizer: Stylizer, photo: Path, folders: Folders
) -> None:
    content, own = read_image(photo), folders[1] / "02.png"
    whole = stylizer.stylize(content, "night", 0.8)
    assert paint_canvas(stylizer, photo, None, "night", None, 0.8, False).stylized == whole
    assert paint_canvas(stylizer, photo, strokes(), "night", None, 0.8, False).stylized == whole
    answer = paint_canvas(
        stylizer, photo, None, "night", own, 1, True
    )  # a painting goes before the look
    assert answer.stylized == stylizer.stylize(content, Image.open(own), keep_colors=True)
    assert answer.photo == content
    assert answer.attention is not None
    assert answer.attention.size == content.size
    assert answer.sentence.startswith("320×240 pixels in ")


def test_the_brush_keeps_the_photo_there(stylizer: Stylizer, photo: Path) -> None:
    answer = paint_canvas(stylizer, photo, strokes(0, 0, 79, 119), "day", None, 1, False)
    before, after = np.asarray(answer.photo), np.asarray(answer.stylized)
    assert np.array_equal(before[:, :140], after[:, :140])
    assert (before[:, 180:] != after[:, 180:]).any()


def test_nothing_is_kept_where_nothing_was_brushed() -> None:
    assert kept_region(None) is None
    assert kept_region(strokes()) is None
    region = kept_region(strokes(40, 40, 120, 80))
    assert region is not None
    assert (region.getpixel((80, 60)), region.getpixel((0, 0))) == (255, 0)


def test_a_model_without_attention_shows_none(
    tiny: Callable[..., TrainConfig], folders: Folders, photo: Path, tmp_path: Path
) -> None:
    stylizer = load(train(tiny("multi-layer", out=tmp_path / "plain")), "cpu")
    own = folders[1] / "00.png"
    assert paint_canvas(stylizer, photo, None, None, own, 1, False).attention is None
    with pytest.raises(ValueError, match="choose a painting first"):
        paint_canvas(stylizer, photo, None, None, None, 1, False)


def test_what_is_missing_is_said_in_words(stylizer: Stylizer, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose a photo first"):
        paint_canvas(stylizer, None, None, "day", None, 1, False)
    with pytest.raises(ValueError, match="choose a painting first"):  # no path goes for a look
        paint_canvas(stylizer, photo, None, str(photo), None, 1, False)
    with pytest.raises(ValueError, match=r"^old.png is not kept any longer: choose it again"):
        read_upload(tmp_path / "old.png")


def bad_file(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "bomb":  # a header alone: a picture of 40,000 x 40,000 pixels
        Image.new("1", (8, 8)).save(buffer, "PNG")
        head = bytearray(buffer.getvalue())
        head[16:24] = (40_000).to_bytes(4, "big") * 2
        head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
        return bytes(head)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return {"text": b"no picture", "empty": b"", "truncated": buffer.getvalue()[:1500]}[kind]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("text", "holiday.jpg is not a picture"),
        ("empty", "holiday.jpg is not a picture"),
        ("truncated", "holiday.jpg cannot be read"),
        ("bomb", "holiday.jpg has more than 100 million pixels"),
    ],
)
def test_bad_files_are_named_without_their_place_on_the_server(
    kind: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(bad_file(kind))
    with pytest.raises(ValueError, match=f"^{sentence}"):
        read_photo(path)


@pytest.mark.parametrize("kind", ["CMYK", "I;16", "LA", "turned"])
def test_unusual_files_are_read(kind: str, tmp_path: Path) -> None:
    path, exif = tmp_path / ("photo.jpg" if kind == "CMYK" else "photo.png"), Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
    image = Image.new("RGB" if kind == "turned" else kind, (64, 40))
    image.save(path, exif=exif)
    photo, sentence = read_photo(path)
    assert photo.mode == "RGB"
    assert photo.size == ((40, 64) if kind == "turned" else (64, 40))
    assert sentence.endswith(" pixels.")


def test_large_photos_are_reduced_and_slivers_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_answers, "MAX_SIDE", 100)
    path = tmp_path / "large.png"
    Image.new("RGB", (400, 200)).save(path)
    photo, sentence = read_photo(path)
    assert photo.size == (100, 50)
    assert sentence == "400×200 pixels, reduced to 100×50 pixels."
    Image.new("RGB", (400, 40)).save(path)
    with pytest.raises(ValueError, match="400×40 pixels: each side must be at least 32"):
        read_photo(path)


def test_a_visitor_who_asks_too_often_is_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_answers, "PER_MINUTE", 2)
    monkeypatch.setattr(app_answers, "VISITORS", 2)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    visits = Visits()
    visits.count("a")
    visits.count("a")
    clock[0] = 20.0
    with pytest.raises(ValueError, match="more than 2 times in a minute: wait 40 s"):
        visits.count("a")
    visits.count("b")  # others are not held up
    clock[0] = 61.0
    visits.count("a")
    visits.count("c")
    assert list(visits.times) == ["a", "c"]  # no more than two are remembered


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_answers, "SECONDS", 0.05)
    worker, gate = Worker(), threading.Event()
    for _ in range(2):  # the second never begins
        with pytest.raises(ValueError, match="longer than 0 s and was given up"):
            worker.do(gate.wait)
    gate.set()
    monkeypatch.setattr(app_answers, "SECONDS", 60.0)
    assert worker.do(max, 1, 2) == 2


def test_mistakes_become_sentences_and_bugs_stay_bugs() -> None:
    with pytest.raises(app_page.gr.Error) as cond_strength, app_page.in_words():
        raise ValueError("<b>.jpg is not a picture")
    assert cond_strength.value.message == "&lt;b&gt;.jpg is not a picture"
    assert not cond_strength.value.print_exception
    with pytest.raises(ZeroDivisionError), app_page.in_words():
        raise ZeroDivisionError


def test_a_port_or_address_that_cannot_be_had_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127.0.0.1, port {port} \(.*in use.*another --port"):
            app.check_address("127.0.0.1", port)
    app.check_address("127.0.0.1", port)
    with pytest.raises(ValueError, match="from 1 to 65535"):
        app.check_address("127.0.0.1", 70_000)
    with pytest.raises(ValueError, match="no address of this machine"):
        app.check_address("no such host", port)


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["underdrawing", "app"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "pip install 'underdrawing[app]'" in capsys.readouterr().err


@pytest.fixture
def url(stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page, open."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # put back at the end
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with app.opened(stylizer, "127.0.0.1", port) as url:
        yield url


@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine")
@pytest.mark.timeout(900)  # half a minute each, unless the machine does other things besides
@pytest.mark.parametrize("width", [1280, 390])
def test_clicking_through(
    url: str, width: int, stylizer: Stylizer, photo: Path, folders: Folders, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    phone = width < 500
    with browser() as chromium:
        page = chromium.new_page(
            viewport={"width": width, "height": 844}, is_mobile=phone, has_touch=phone
        )
        page.set_default_timeout(120_000)
        asked: list[str] = []
        health_warnings: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: line.type == "error" and health_warnings.append(line.text))
        page.on("pageerror", lambda error: health_warnings.append(str(error)))
        page.goto(url)

        page.get_by_role("button", name="Paint", exact=True).click()
        page.get_by_text("choose a photo first").wait_for()
        chooser = page.locator("#photo input[type=file]")
        chooser.set_input_files(bad)
        page.get_by_text("bad.jpg is not a picture").wait_for()
        chooser.set_input_files(photo)
        page.get_by_text("320×240 pixels.").wait_for()
        pick_look(page, "night")
        page.locator("#painting input[type=file]").set_input_files(folders[1] / "02.png")
        page.locator("#thumbnail img").wait_for()
        slider = page.get_by_role("slider", name="Strength")
        slider.press("ArrowLeft")
        slider.press("ArrowLeft")
        page.get_by_label("Keep the photo's colors").check()
        brush(page, [(0.4, 0.4), (0.6, 0.6)])
        page.get_by_role("button", name="Paint", exact=True).click()
        page.get_by_text("320×240 pixels in ").wait_for()
        page.locator("#attention img").wait_for()

        handle = page.locator("#result .handle, #result [role=slider], #result .outer").first
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        assert box is not None
        before = box["x"]
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 80, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()
        moved = handle.bounding_box()
        assert moved is not None
        assert moved["x"] > before + 30

        with page.expect_download() as download:
            page.get_by_role("button", name="Download", exact=True).click()
        assert download.value.suggested_filename == "photo-stylized.png"
        stylized = np.asarray(Image.open(download.value.path()), np.int16)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    content = Image.open(photo)
    own = Image.open(folders[1] / "02.png")
    whole = np.asarray(stylizer.stylize(content, own, 0.9, keep_colors=True), np.int16)
    kept = np.abs(stylized - np.asarray(content, np.int16)).max(axis=2)
    painted = np.abs(stylized - whole).max(axis=2)
    assert kept[120, 160] <= 1  # under the brush
    assert painted[:20].max() <= 1  # away from it
    assert kept[:20].max() > 1
    assert {address.split("/")[2] for address in asked if address.startswith("http")} == {
        url.split("/")[2]
    }
    assert not health_warnings
