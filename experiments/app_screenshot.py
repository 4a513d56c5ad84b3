"""The picture of the page in the README, by clicking through it in a browser without a screen.

python -m underdrawing.experiments.app_screenshot --model RUN --out results/app/page.png
"""

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from ..trainers.painter import load
from .app import opened

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1280, 1100)
PATIENCE = 120  # seconds, on a machine that does other things besides


@dataclass(frozen=True)
class ScreenshotConfig:
    """Take a picture of the page at work on a sample photo (extras demo, app and dev)."""

    model: Path | None = None
    """Run folder of the trained model; by default the model that is shipped."""
    look: str | None = None
    """Of the model's looks; by default the first."""
    out: Path = Path("results/app/page.png")
    """File to write."""
    port: int = 7869
    """Port for the page, meanwhile."""


def take(config: ScreenshotConfig) -> None:
    """Open, choose, brush, paint, and write the picture."""
    with opened(load(config.model), "127.0.0.1", config.port) as url, browser() as chromium:
        page = chromium.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(url)
        page.locator("#samples button").first.click()
        if config.look:
            pick_look(page, config.look)
        brush(page, [(0.45, 0.25), (0.52, 0.25), (0.48, 0.33)])
        press_paint(page)
        page.mouse.move(0, 0)
        page.wait_for_timeout(3000)  # pictures fade in
        shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    shot.quantize(256, dither=Image.Dither.NONE).save(config.out, optimize=True)


def find_chromium() -> str | None:
    """Where this machine has Chromium, if it has."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, without a screen.

    Raises:
        ValueError: it is not installed.
    """
    path = find_chromium()
    if path is None:
        raise ValueError(f"there is no Chromium on this machine (none of {', '.join(BROWSERS)})")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def pick_look(page: Page, name: str) -> None:
    """Choose a look."""
    page.get_by_label("Look").click()
    page.get_by_role("option", name=name, exact=True).click()


def brush(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw a stroke over the photo, through points (x,y) in [0,1] of the canvas."""
    canvas = page.locator("#brush canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)  # it moves and grows until the photo fits
    box = canvas.bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_timeout(500)


def press_paint(page: Page) -> None:
    """Paint, and wait for the result."""
    page.get_by_role("button", name="Paint", exact=True).click()
    page.get_by_text(" pixels in ").wait_for()


if __name__ == "__main__":
    take(tyro.cli(ScreenshotConfig, args=sys.argv[1:]))
