"""``underdrawing app``: an interactive demo in the browser, built with Gradio.

underdrawing app --model runs/mine
underdrawing app --host 0.0.0.0 --port 8000    # reachable from other machines
"""

import html
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from typing import Any, Literal

from ...data.demo.samples import PHOTOS, shipped
from ...data.images import save_image
from ...trainers.runtime import Interrupted
from ...trainers.stylizer import Stylizer, load
from ..errors import explain_error
from ..main import parse_options
from .app_handlers import RateLimiter, read_photo, stylize_upload

try:
    import gradio as gr
except ModuleNotFoundError:
    raise ValueError("app needs Gradio: pip install 'underdrawing[app]'") from None

MAX_BYTES = 32 * 2**20  # of an upload
LIFETIME = 1800  # seconds until uploads and results are deleted
QUEUE = 16  # waiting requests
TIMEOUT = 60.0  # seconds per request
CANVAS = 800  # pixels a side of the photo under the brush
CSS = """
.gradio-container {max-width: 1240px !important; margin: 0 auto !important}
footer {display: none !important}
"""
HIDDEN: Any = gr.update(value=None, visible=False)


@dataclass(frozen=True)
class AppConfig:
    """Launch the Gradio demo. Press Ctrl-C to stop it."""

    model: Path | None = None
    """Run directory of the trained model; default: the pretrained model."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts connections from other machines."""
    port: int = 7860
    """Port to listen on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for the model."""


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
    limiter, worker = RateLimiter(), ThreadPoolExecutor(1)

    def run(request: gr.Request, function: Any, *arguments: Any) -> Any:
        with gradio_errors():
            limiter.count(request.client.host if request.client else "")
            return run_in_time(worker, function, *arguments)

    def show_photo(path: str | None, request: gr.Request) -> tuple[Any, Any]:
        if path is None:
            return HIDDEN, ""
        photo, size = run(request, read_photo, Path(path))
        photo.thumbnail((CANVAS, CANVAS))
        canvas = {"background": photo, "layers": [], "composite": None}
        return gr.update(value=canvas, visible=True), size

    def show_result(
        photo: str | None, canvas: dict[str, Any] | None, style: str | None, painting: str | None,
        strength: float, keep_colors: bool, request: gr.Request,
    ) -> tuple[Any, ...]:  # fmt: skip
        strokes = canvas["layers"][0] if canvas and canvas["layers"] else None
        result = run(
            request, stylize_upload, stylizer, Path(photo) if photo else None, strokes, style,
            Path(painting) if painting else None, strength, keep_colors,
        )  # fmt: skip
        file = Path(mkdtemp(dir=folder)) / f"{Path(photo or '').stem}-stylized.png"
        with gradio_errors():
            save_image(result.stylized, file)
        download = gr.update(value=str(file), interactive=True)
        return (result.photo, result.stylized), result.text, download, result.attention

    names, samples = list(stylizer.styles), [str(path) for path in sample_photos()]
    page = gr.Blocks(title="Underdrawing", analytics_enabled=False, delete_cache=(60, LIFETIME))
    with page:
        gr.Markdown("# Underdrawing\nStyle transfer with an attention-weighted content loss.")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = gr.File(label="Photo", file_types=["image"], height=130, elem_id="photo")
                gallery = gr.Gallery(
                    samples, visible=bool(samples), show_label=False, columns=3, height=120,
                    object_fit="cover", allow_preview=False, buttons=[],
                )  # fmt: skip
                brush = gr.ImageEditor(
                    label="Paint over regions to protect", visible=False, type="pil", sources=(),
                    transforms=(), layers=False, buttons=[], elem_id="brush",
                    brush=gr.Brush(colors=["#e8590cb0"], color_mode="fixed", default_size=40),
                )  # fmt: skip
                size = gr.Markdown()
                style = gr.Dropdown(names, label="Style", visible=bool(names))
                painting = gr.File(
                    label="Painting (instead of a named style)", file_types=["image"], height=130,
                    elem_id="painting",
                )  # fmt: skip
                strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0: the photo")
                keep_colors = gr.Checkbox(label="Keep the photo's colors")
            with gr.Column(scale=3, min_width=320):
                button = gr.Button("Stylize", variant="primary")
                comparison = gr.ImageSlider(
                    label="Photo and result", interactive=False, buttons=["fullscreen"],
                    max_height=640,
                )  # fmt: skip
                text = gr.Markdown()
                download = gr.DownloadButton("Download", interactive=False)
                attention = gr.Image(
                    label="Attention map A: where the content loss weighs more",
                    visible=stylizer.generator.attention is not None, interactive=False, height=420,
                    buttons=["fullscreen"], elem_id="attention",
                )  # fmt: skip

        options = {"concurrency_limit": 1, "concurrency_id": "work", "api_visibility": "private"}
        photo.change(show_photo, photo, [brush, size], **options).failure(
            lambda: (None, HIDDEN, ""), None, [photo, brush, size]
        )
        brush.clear(show_photo, photo, [brush, size], **options)
        gallery.select(chosen_sample, None, photo, **options)
        inputs = [photo, brush, style, painting, strength, keep_colors]
        button.click(show_result, inputs, [comparison, text, download, attention], **options)
    return page.queue(max_size=QUEUE)


def sample_photos() -> list[Path]:
    """List the sample photos; none without the extra ``demo``."""
    try:
        return [shipped(name) for name in PHOTOS["test"]]
    except ValueError:
        return []


def chosen_sample(event: gr.SelectData) -> str:
    """Return the path of the sample that was clicked."""
    return str(sample_photos()[event.index])


def run_in_time(worker: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
    """Call a function in a worker thread; a call that has started runs to its end in any case.

    Raises:
        ValueError: no result after ``TIMEOUT``.
    """
    job = worker.submit(function, *arguments)
    try:
        return job.result(TIMEOUT)
    except TimeoutError:
        job.cancel()
        raise ValueError(f"no result after {TIMEOUT:.0f} s: use a smaller photo, or wait") from None


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
