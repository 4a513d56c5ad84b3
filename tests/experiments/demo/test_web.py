"""The page of ``export --web`` in headless Chromium, clicked through like a visitor does.

Needs Chromium, playwright, and in the checkout ``npm install --no-save onnxruntime-web@1.30.0``.
"""

import io
import json
import re
import shutil
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.experiments import export
from underdrawing.experiments.export import PAGE, ExportConfig
from underdrawing.trainers.stylizer import Stylizer, load

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `export` is not installed")

ROOT = Path(__file__).parents[3]
RUNTIME = ROOT / "node_modules/onnxruntime-web/dist"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def stylizer(exported: ExportConfig) -> Stylizer:
    return load(exported.run, "cpu")


@pytest.fixture
def site(exported: ExportConfig) -> Path:
    """The page of that model, without a runtime."""
    assert exported.web
    return exported.web


def test_page_holds_model_styles_and_thumbnails(site: Path, stylizer: Stylizer) -> None:
    import onnxruntime

    static = {path.name for path in PAGE.iterdir()}
    assert {path.name for path in site.iterdir()} == static | {"model.onnx", "styles.json"}
    styles = json.loads((site / "styles.json").read_text())
    assert list(styles) == ["day & dusk", "night", "00"]
    code = np.array([styles["night"]["code"]], np.float32)
    assert (code == stylizer.code("night").numpy()).all()
    thumbnail = Image.open(io.BytesIO(b64decode(styles["night"]["thumbnail"].split(",")[1])))
    assert thumbnail.size == (192, 192)
    photo = np.random.default_rng(0).random((1, 3, 40, 50), np.float32)
    feed = {"photo": photo, "reduced": photo, "code": code, "strength": np.ones_like(photo[:, :1])}
    session = onnxruntime.InferenceSession(site / "model.onnx")
    expected = stylizer.stylize(torch.from_numpy(photo), "night")
    np.testing.assert_allclose(session.run(["stylized"], feed)[0], expected, rtol=0, atol=1e-3)


def test_page_without_named_styles_has_the_average(
    site: Path, stylizer: Stylizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stylizer.codes.run, tmp_path / "run")
    (tmp_path / "run/styles.safetensors").unlink()
    monkeypatch.setattr(export, "to_onnx", lambda *_: (site / "model.onnx").read_bytes())
    monkeypatch.setattr(export, "max_difference", lambda *_: 0.0)
    export.export(ExportConfig(tmp_path / "run", web=tmp_path / "site"))
    assert list(json.loads((tmp_path / "site/styles.json").read_text())) == ["average"]


def test_script_and_page_name_the_same_elements() -> None:
    page, script = (PAGE / "index.html").read_text(), (PAGE / "underdrawing.js").read_text()
    names = set(re.findall(r'\$\("(\w+)"\)', script))
    assert names <= set(re.findall(r'id="(\w+)"', page))


def test_documented_runtime_is_that_of_the_script() -> None:
    files = (PAGE / "underdrawing.js", ROOT / "docs/export.md", Path(__file__))
    pattern = r"onnxruntime-web(?:@|-|\s)(\d+\.\d+\.\d+)"
    assert len({frozenset(re.findall(pattern, file.read_text())) for file in files}) == 1


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as any static server does."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--no-proxy-server"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def read_canvas(page: Any, name: str) -> np.ndarray:
    address = page.evaluate(f"document.getElementById('{name}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(address.split(",")[1]))).convert("RGB"), int)


def set_value(page: Any, label: str, value: float) -> None:
    page.get_by_label(label).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); "
        "input.dispatchEvent(new Event('change')) }",
        value,
    )


@pytest.mark.timeout(600)
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="onnxruntime-web is not in node_modules")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_photo_is_stylized_in_the_browser_as_in_python(
    chromium: Any, site: Path, stylizer: Stylizer, tmp_path: Path, width: int, scheme: str
) -> None:
    shutil.copytree(site, tmp_path / "site")
    for name in FILES:
        shutil.copy(RUNTIME / name, tmp_path / "site")
    (tmp_path / "bad.jpg").write_text("text")
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1200, 900), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    photo.resize((40, 20)).save(tmp_path / "small.png")
    page = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    with served(tmp_path / "site") as url:
        page.goto(url)
        page.get_by_text("Choose a style.").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#file").set_input_files(tmp_path / "bad.jpg")
        page.get_by_text("bad.jpg cannot be read").wait_for()
        page.locator("#file").set_input_files(tmp_path / "small.png")
        page.get_by_text("small.png has 40×20 pixels").wait_for()
        page.locator("#file").set_input_files(tmp_path / "photo.png")
        page.get_by_text("Choose a style.").wait_for()
        page.get_by_label("Result size").select_option("512")
        page.get_by_text("day & dusk").click()
        page.keyboard.press("ArrowRight")  # while the first style loads or is painted
        set_value(page, "Strength", 0.7)
        set_value(page, "Stroke size", 1.7)
        page.get_by_text("512×384 pixels, stylized in").wait_for()
        content, result = read_canvas(page, "photo"), read_canvas(page, "result")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == "photo-night.png"
    assert (np.asarray(Image.open(download.value.path()).convert("RGB")) == result).all()
    page.close()
    expected = stylizer.stylize(content.astype(np.uint8), "night", 0.7, stroke_size=1.7)
    assert np.abs(result - expected).max() <= 2
    assert np.abs(result - content).max() > 30
    hosts = {address.split("/")[2] for address in requests if address.startswith("http")}
    assert hosts == {url.split("/")[2]}


def test_missing_runtime_is_named(chromium: Any, site: Path) -> None:
    with chromium.new_context() as context, served(site) as url:
        context.route(re.compile("jsdelivr"), lambda route: route.abort())
        page = context.new_page()
        page.goto(url)
        page.get_by_text("night").click()
        page.get_by_text(re.compile(r"ort\.\w+\.bundle\.min\.mjs is not beside this")).wait_for()
