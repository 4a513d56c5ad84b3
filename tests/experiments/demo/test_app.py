# ruff: noqa: E402
import importlib
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from underdrawing.data.images import read_image
from underdrawing.trainers.model_files import load_model
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import Stylizer, load

gradio = pytest.importorskip("gradio", reason="the extra `app` is not installed")
from underdrawing.experiments.demo import app
from underdrawing.experiments.demo.app import read_photo, style_previews, stylize_upload

Folders = tuple[Path, Path]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def stylizer(model_dir: Path) -> Stylizer:
    """A model with the named styles `day` and `night`."""
    mean = load_model(model_dir)[0].code_mean
    write_styles(model_dir, {"day": torch.rand_like(mean), "night": torch.rand_like(mean)})
    return load(model_dir, "cpu")


@pytest.fixture
def photo(folders: Folders, tmp_path: Path) -> Path:
    """A photo of 320x240 pixels."""
    path = tmp_path / "photo.png"
    Image.open(folders[0] / "00.png").resize((320, 240)).save(path)
    return path


def strokes(*box: int) -> Image.Image:
    """A brush layer of 160x120 pixels with one box, or nothing, brushed."""
    layer = Image.new("RGBA", (160, 120))
    if box:
        ImageDraw.Draw(layer).rectangle(box, fill=(230, 90, 10, 170))
    return layer


# --- handlers -----------------------------------------------------------------------------------


def test_result_is_that_of_the_stylizer(stylizer: Stylizer, photo: Path, folders: Folders) -> None:
    content, painting = read_image(photo), folders[1] / "02.png"
    result = stylize_upload(stylizer, photo, strokes(), "night", 0.8, False)
    assert result.stylized == stylizer.stylize(content, "night", 0.8)
    assert result.attention is not None
    assert result.photo.size == result.attention.size == content.size
    assert result.text.startswith("320×240 pixels in ")
    assert result.title == "night, 0.8"
    result = stylize_upload(stylizer, photo, None, painting, 1, True)
    assert result.title == "02, photo's colors"
    assert result.stylized == stylizer.stylize(content, painting, keep_colors=True)


def test_brushed_region_stays_a_photo(stylizer: Stylizer, photo: Path) -> None:
    result = stylize_upload(stylizer, photo, strokes(0, 0, 79, 119), "day", 1, False)
    before, after = np.asarray(result.photo), np.asarray(result.stylized)
    assert np.array_equal(before[:, :140], after[:, :140])
    assert (before[:, 180:] != after[:, 180:]).any()


@pytest.mark.parametrize("batch", [1, 16])
def test_previews_are_the_photo_in_every_named_style(
    stylizer: Stylizer, photo: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BATCH", batch)
    wide = read_image(photo).resize((320, 40))  # narrower than a model allows, if only reduced
    previews = style_previews(stylizer, wide)
    assert [name for _, name in previews] == ["day", "night"]
    small = ImageOps.fit(wide, (app.PREVIEW, app.PREVIEW))
    for image, name in previews:
        alone = np.asarray(stylizer.stylize(small, name), int)
        assert np.abs(np.asarray(image, int) - alone).max() <= 1
    stylizer.styles = ()
    assert style_previews(stylizer, wide) == []


def test_unsuitable_uploads_and_missing_choices_are_named_without_their_folder(
    stylizer: Stylizer, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_SIDE", 100)
    bad, large, narrow = (tmp_path / name for name in ("bad.jpg", "large.png", "narrow.png"))
    bad.write_text("text")
    Image.new("RGB", (400, 200)).save(large)
    Image.new("RGB", (400, 40)).save(narrow)
    downscaled, text = read_photo(large)
    assert (downscaled.size, text) == ((100, 50), "400×200 pixels, downscaled to 100×50")
    for chosen, style, message in (
        (None, "day", "choose a photo first"),
        (photo, None, "choose a style or a painting first"),
        (bad, "day", r"^bad\.jpg "),
        (tmp_path / "old.png", "day", r"^old.png was deleted from the server"),
        (photo, tmp_path / "gone.png", r"^gone.png was deleted from the server"),
        (narrow, "day", r"^narrow.png has 400×40 .* at least 32"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            stylize_upload(stylizer, chosen, None, style, 1, False)
        assert str(tmp_path) not in str(error.value)


def test_expected_errors_are_escaped_and_bugs_pass() -> None:
    with pytest.raises(gradio.Error) as error, app.gradio_errors():
        raise ValueError("<b>.jpg is not an image")
    assert error.value.message == "&lt;b&gt;.jpg is not an image"
    with pytest.raises(ZeroDivisionError), app.gradio_errors():
        raise ZeroDivisionError


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, app.__name__)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[app\]'"):
        importlib.import_module(app.__name__)


# --- server -------------------------------------------------------------------------------------


@pytest.fixture
def url(stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the running page, started behind a proxy that does not answer."""
    for name in ("GRADIO_TEMP_DIR", "no_proxy"):
        monkeypatch.setenv(name, "")  # restored at the end
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with app.running(stylizer, "127.0.0.1", port) as url:
        yield url


def test_page_is_served_behind_a_proxy_and_loads_from_its_own_host(
    url: str, stylizer: Stylizer
) -> None:
    page = build_opener(ProxyHandler({})).open(url, timeout=60).read().decode()
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]+)\"", page)
    assert loaded
    assert not [address for address in loaded if "//" in address and not address.startswith(url)]
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    with (
        pytest.raises(ValueError, match=rf"cannot listen on 127.0.0.1, port {port}"),
        app.running(stylizer, "127.0.0.1", port),
    ):
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.timeout(600)
def test_photo_is_stylized_in_the_browser(
    url: str, stylizer: Stylizer, photo: Path, folders: Folders, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    bad = tmp_path / "bad.jpg"
    bad.write_text("text")
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        named = page.locator("#styles")
        if stylized_samples := app.sample_photos():
            named.get_by_text("night").click()
            page.get_by_text("choose a photo first").wait_for()
        page.locator("#photo input[type=file]").set_input_files(bad)
        page.get_by_text(re.compile(r"bad\.jpg is ")).wait_for()
        page.locator("#photo input[type=file]").set_input_files(photo)
        if not stylized_samples:
            named.get_by_text("night").click()
        page.get_by_text("night: 320×240 pixels in ").wait_for()  # as soon as both are chosen
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Use a painting of your own").click()
        chooser.value.set_files(folders[1] / "02.png")
        page.get_by_text("02: 320×240 pixels in ").wait_for()
        named.get_by_text("day").click()
        page.get_by_text("day: 320×240 pixels in ").wait_for()
        canvas = page.locator("#brush canvas").first
        canvas.scroll_into_view_if_needed()
        page.wait_for_timeout(2000)  # the canvas is laid out anew when the photo arrives
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_timeout(500)
        named.get_by_text("night").click()
        page.get_by_text("night: 320×240 pixels in ").wait_for()
        page.get_by_label("Keep the photo's colors").check()
        page.get_by_text("night, photo's colors: 320×240 pixels in ").wait_for()
        results = page.locator("#last button.thumbnail-item")
        results.nth(4).wait_for()
        page.get_by_role("button", name="Stylize again", exact=True).click()
        results.nth(5).wait_for()
        page.get_by_role("button", name="Stylize again", exact=True).click()
        page.wait_for_timeout(3000)
        assert results.count() == app.LAST == 6
        page.locator("#attention img").wait_for()
        page.get_by_text("A is high (orange) where").wait_for()
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        with page.expect_download() as download:
            page.get_by_role("button", name="Download", exact=True).click()
        assert download.value.suggested_filename == "photo-stylized.png"
        result = np.asarray(Image.open(download.value.path()), int)
        chromium.close()
    content = np.asarray(Image.open(photo), int)
    stylized = np.asarray(stylizer.stylize(Image.open(photo), "night", keep_colors=True), int)
    assert np.abs(result - content)[120, 160].max() <= 1  # brushed
    assert np.abs(result - stylized)[:20].max() <= 1  # far from the brush
    assert np.abs(result - content)[:20].max() > 1
    hosts = {address.split("/")[2] for address in requests if address.startswith("http")}
    assert hosts == {url.split("/")[2]}
