"""``underdrawing app``: an interactive demo in the browser, built with Gradio.

underdrawing app --model runs/mine
underdrawing app --host 0.0.0.0 --port 8000    # reachable from other machines
"""

import html
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageFilter, ImageOps

from ...data.convert import to_batch
from ...data.demo.samples import PHOTOS, shipped
from ...data.images import read_image, save_image, to_image
from ...models.generator import MIN_SIDE
from ...trainers.runtime import Device, Interrupted
from ...trainers.stylizer import Stylizer, load
from ...trainers.visualize import overlay
from ..errors import explain_error
from ..main import parse_options

try:
    import gradio as gr
except ModuleNotFoundError:
    raise ValueError("app needs Gradio: pip install 'underdrawing[app]'") from None

MAX_BYTES = 32 * 2**20  # of an upload
LIFETIME = 1800  # seconds until uploads and results are deleted
QUEUE = 16  # waiting requests
MAX_SIDE = 2048  # pixels; larger photos are downscaled
MIN_ALPHA = 32  # of 255, of a pixel that counts as brushed
BLUR = 0.005  # of a stroke's edge, relative to the longer side
CANVAS = 800  # pixels a side of the photo under the brush
PREVIEW = 192  # pixels a side of the photo painted in every named style
BATCH = 16  # previews painted at once
LAST = 6  # results kept
EXPLANATION = (
    "A is high (orange) where the network expects a painting to change the photo's structure most; "
    "in training, content errors have a larger weight there."
)
GRID: Any = {
    "columns": 3, "object_fit": "cover", "allow_preview": False, "buttons": [], "show_label": False,
}  # fmt: skip
CSS = """
.gradio-container {max-width: 1240px !important; margin: 0 auto !important}
.main {padding: 16px !important}
footer {display: none !important}
.grid-wrap {min-height: 0 !important; max-height: 640px !important}
.caption-label {font-size: 11px !important; padding: 2px 6px !important}
"""
HIDDEN: Any = gr.update(visible=False)
SHOWN: Any = gr.update(visible=True)


@dataclass(frozen=True)
class AppConfig:
    """Launch the Gradio demo. Press Ctrl-C to stop it."""

    model: Path | None = None
    """Run directory of the trained model; default: the shipped model."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts connections from other machines."""
    port: int = 7860
    """Port to listen on."""
    device: Device = "auto"
    """Device to compute on."""


def serve(config: AppConfig) -> None:
    """Serve the page until interrupted.

    Raises:
        ValueError: no such model, or the address cannot be used.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    with running(load(config.model, config.device), config.host, config.port) as url:
        print(f"serving at {url} (press Ctrl-C to stop)", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            raise Interrupted("server stopped") from None


@contextmanager
def running(stylizer: Stylizer, host: str, port: int) -> Iterator[str]:
    """Serve the page of a model in the background and yield its URL; delete all uploads at exit.

    Raises:
        ValueError: the host or port cannot be used.
    """
    # Gradio checks its own start-up with a request to itself, which must not go through a proxy.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"{direct},localhost,127.0.0.1,{host}"
    with TemporaryDirectory(prefix="underdrawing-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when components are made
        page = build_page(stylizer, Path(folder))
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, max_file_size=MAX_BYTES, share=False,
                ssr_mode=False, mcp_server=False, run_history=False, enable_monitoring=False,
                allowed_paths=[str(path) for path in sample_photos()], quiet=True,
                prevent_thread_lock=True, css=CSS, footer_links=[],
                _frontend=False,  # no check that gives up on a machine that is busy for 3 seconds
            )  # fmt: skip
        except (OSError, OverflowError):
            raise ValueError(
                f"cannot listen on {host}, port {port}: choose another --port, from 1024 to 65535, "
                "or another --host, an address of this machine"
            ) from None
        try:
            yield url
        finally:
            page.close(verbose=False)


def build_page(stylizer: Stylizer, folder: Path) -> gr.Blocks:
    """Build the page of a model; results are written to ``folder``, where Gradio deletes them."""

    def show_photo(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return HIDDEN, None, ""
        with gradio_errors():
            photo, size = read_photo(Path(path))
        photo.thumbnail((CANVAS, CANVAS))
        canvas = {"background": photo, "layers": [], "composite": None}
        return SHOWN, canvas, size

    def chosen(items: Sequence[str]) -> Callable[[gr.SelectData], str]:
        def item(event: gr.SelectData) -> str:
            return items[event.index]

        return item

    def show_styles(path: str | None) -> Any:
        with gradio_errors():
            return style_previews(stylizer, read_photo(Path(path))[0]) if path else gr.skip()

    def show_result(
        photo: str | None, canvas: dict[str, Any] | None, style: str | Path | None,
        strength: float, keep_colors: bool, last: list[tuple[str, str]],
    ) -> Any:  # fmt: skip
        strokes = canvas["layers"][0] if canvas and canvas["layers"] else None
        with gradio_errors():
            path = Path(photo) if photo else None
            result = stylize_upload(stylizer, path, strokes, style, strength, keep_colors)
            file = Path(mkdtemp(dir=folder)) / f"{Path(photo or '').stem}-stylized.png"
            save_image(result.stylized, file)
        last = [(str(file), result.title), *(one for one in last if Path(one[0]).is_file())][:LAST]
        text = f"{html.escape(result.title)}: {result.text}"
        return (result.photo, result.stylized), text, SHOWN, str(file), result.attention, last, last

    def show_result_if_ready(photo: str | None, canvas: Any, style: Any, *options: Any) -> Any:
        return show_result(photo, canvas, style, *options) if photo and style else gr.skip()

    samples = [str(path) for path in sample_photos()]
    previews = style_previews(stylizer, read_image(Path(samples[0]))) if samples else None
    page = gr.Blocks(title="Underdrawing", analytics_enabled=False, delete_cache=(60, LIFETIME))
    with page:
        style, results = gr.State(None), gr.State([])
        gr.Markdown("# Underdrawing\nChoose a photo and a style: the photo is stylized at once.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = gr.File(label="Photo", file_types=["image"], height=150, elem_id="photo")
                size = gr.Markdown()
                gallery = gr.Gallery(samples, visible=bool(samples), **GRID)
                styles = gr.Gallery(
                    previews, visible=bool(stylizer.styles), elem_id="styles", **GRID
                )
                painting = gr.UploadButton("Use a painting of your own", file_types=["image"])
                strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0: the photo")
                keep_colors = gr.Checkbox(label="Keep the photo's colors")
            with gr.Column(scale=3, min_width=280):
                comparison = gr.ImageSlider(
                    label="Photo and result", interactive=False, buttons=["fullscreen"],
                    max_height=640,
                )  # fmt: skip
                text = gr.Markdown()
                with gr.Column(visible=False) as details:
                    download = gr.DownloadButton("Download")
                    last = gr.Gallery(label="Last results", columns=3, elem_id="last")
                    with gr.Column(visible=stylizer.generator.attention is not None):
                        attention = gr.Image(
                            label="Attention map A", interactive=False, buttons=["fullscreen"],
                            elem_id="attention",
                        )  # fmt: skip
                        gr.Markdown(EXPLANATION)
                with gr.Column(visible=False) as protect:
                    brush = gr.ImageEditor(
                        label="Protect regions", type="pil", sources=(),
                        transforms=(), layers=False, buttons=[], elem_id="brush",
                        brush=gr.Brush(colors=["#e8590cb0"], color_mode="fixed", default_size=40),
                    )  # fmt: skip
                    button = gr.Button("Stylize again", variant="primary")

        options = {"concurrency_limit": 1, "concurrency_id": "work", "api_visibility": "private"}
        inputs = [photo, brush, style, strength, keep_colors, results]
        outputs = [comparison, text, details, download, attention, last, results]
        shown = photo.change(show_photo, photo, [protect, brush, size], **options)
        shown.failure(lambda: (None, *show_photo(None)), None, [photo, protect, brush, size])
        unprotected = [photo, gr.State(None), *inputs[2:]]  # the strokes are those of another photo
        shown.success(show_result_if_ready, unprotected, outputs, **options)
        shown.success(show_styles, photo, styles, **options)
        brush.clear(show_photo, photo, [protect, brush, size], **options)
        gallery.select(chosen(samples), None, photo, **options)
        named = styles.select(chosen(stylizer.styles), None, style, **options)
        named.success(show_result, inputs, outputs, **options)
        uploaded = painting.upload(Path, painting, style, **options)
        uploaded.success(show_result, inputs, outputs, **options)
        button.click(show_result, inputs, outputs, **options)
        for change in (strength.release, keep_colors.input):
            change(show_result_if_ready, inputs, outputs, trigger_mode="always_last", **options)
    return page.queue(max_size=QUEUE)


def sample_photos() -> list[Path]:
    """List the sample photos; none without the extra ``demo``."""
    try:
        return [shipped(name) for name in PHOTOS["test"]]
    except ValueError:
        return []


def style_previews(stylizer: Stylizer, photo: Image.Image) -> list[tuple[Image.Image, str]]:
    """Paint the middle of a photo, reduced, in every named style."""
    if not stylizer.styles:
        return []
    small = to_batch(ImageOps.fit(photo, (PREVIEW, PREVIEW)))
    codes = torch.cat([stylizer.code(name) for name in stylizer.styles])
    stylized = [
        image
        for part in codes.split(BATCH)
        for image in stylizer.stylize(small.repeat(len(part), 1, 1, 1), part)
    ]
    return list(zip(map(to_image, stylized), stylizer.styles, strict=True))


class Result(NamedTuple):
    """Images of one size with texts; ``attention`` is None if the model has no branch."""

    photo: Image.Image
    stylized: Image.Image
    attention: Image.Image | None
    title: str
    text: str


def read_upload(path: Path) -> Image.Image:
    """Read an uploaded image; errors name the file without its place on the server.

    Raises:
        ValueError: the file is not a readable image, too large, or already deleted.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path.name} was deleted from the server: upload it again") from None
    return read_image(Path(path.name), content=content)


def read_photo(path: Path) -> tuple[Image.Image, str]:
    """Read an uploaded photo, downscaled to ``MAX_SIDE``; return it with a text on its size.

    Raises:
        ValueError: as ``read_upload``, or a side is smaller than the model allows.
    """
    photo = read_upload(path)
    text = f"{photo.width}×{photo.height} pixels"
    if max(photo.size) > MAX_SIDE:
        photo.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        text += f", downscaled to {photo.width}×{photo.height}"
    if min(photo.size) < MIN_SIDE:
        raise ValueError(f"{path.name} has {text}; each side must have at least {MIN_SIDE}")
    return photo, text


def protected_region(strokes: Image.Image | None) -> Image.Image | None:
    """Convert the brush layer to a mask, white with soft edges where brushed; None if empty."""
    if strokes is None:
        return None
    mask = strokes.convert("RGBA").getchannel("A").point(lambda a: 255 * (a >= MIN_ALPHA))
    blurred = mask.filter(ImageFilter.GaussianBlur(BLUR * max(mask.size)))
    return blurred if mask.getbbox() else None


def stylize_upload(
    stylizer: Stylizer, photo: Path | None, strokes: Image.Image | None, style: str | Path | None,
    strength: float, keep_colors: bool,
) -> Result:  # fmt: skip
    """Stylize an uploaded photo in a named style, or after an uploaded painting, a path.

    Raises:
        ValueError: no photo, no style, or an unreadable file.
    """
    if photo is None:
        raise ValueError("choose a photo first")
    if style is None:
        raise ValueError("choose a style or a painting first")
    start = time.perf_counter()
    content, _ = read_photo(photo)
    code = stylizer.code(read_upload(style) if isinstance(style, Path) else style)
    protect = protected_region(strokes)
    stylized = stylizer.stylize(content, code, strength, protect=protect, keep_colors=keep_colors)
    attention = None
    if stylizer.generator.attention is not None:
        attention = to_image(overlay(to_batch(content), stylizer.attention(content).cpu())[0])
    seconds = time.perf_counter() - start
    text = f"{content.width}×{content.height} pixels in {seconds:.1f} s"
    title = style.stem if isinstance(style, Path) else style
    title += f", {strength:g}" * (strength < 1) + ", photo's colors" * keep_colors
    return Result(content, stylized, attention, title, text)


@contextmanager
def gradio_errors() -> Iterator[None]:
    """Show expected errors on the page; other exceptions are bugs and go to the terminal."""
    try:
        yield
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = explain_error(error, "stylize")
        if message is None:
            raise
        raise gr.Error(html.escape(message), title="", print_exception=False) from None


def command(arguments: list[str]) -> None:
    """Run the command."""
    serve(parse_options(AppConfig, prog="underdrawing app", args=arguments))
