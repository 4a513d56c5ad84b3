"""The page's widgets, and what each of them sets off. Needs Gradio."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr

from ...data.demo.samples import shipped
from ...data.images import save_image
from ...trainers.stylizer import Stylizer
from ..errors import explain_error
from .app_answers import Visits, Worker, paint, read_photo, read_upload

KEPT = 1800  # seconds that uploads and results are kept
WAITING = 16  # answers in the queue, at most
CANVAS = 800  # pixels a side of the photo under the brush, at most
THUMB = 320  # pixels a side of the painting that is shown, at most
BRUSH = "#e8590c"
HEADING = """# Underdrawing
Repaints a photo in the manner of a painting, and keeps its content where content matters."""
#: As ``data.samples.shipped`` finds them.
SAMPLES = (
    "skimage/data/astronaut.png", "skimage/data/chelsea.png", "skimage/data/coffee.png",
    "sklearn/datasets/images/china.jpg",
)  # fmt: skip
CSS = """
.gradio-container {max-width: 1240px !important; margin: 0 auto !important}
footer {display: none !important}
#samples .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}
"""
DRESS: dict[str, Any] = {"css": CSS, "footer_links": []}

CLEARED: Any = gr.update(value=None, visible=False)


def build_page(stylizer: Stylizer, folder: Path) -> gr.Blocks:
    """The page of one model.

    Args:
        painter: the model.
        folder: Gradio's, where it deletes what is old; results are written there.
    """
    visits, worker = Visits(), Worker()

    def show_photo(path: str | None, request: gr.Request) -> tuple[Any, Any]:
        if path is None:
            return CLEARED, ""
        with in_words():
            visits.count(visitor(request))
            photo, size = worker.do(read_photo, Path(path))
        photo.thumbnail((CANVAS, CANVAS))
        canvas = {"background": photo, "layers": [], "composite": None}
        return gr.update(value=canvas, visible=True), size

    def show_painting(path: str | None, request: gr.Request) -> Any:
        if path is None:
            return CLEARED
        with in_words():
            visits.count(visitor(request))
            painting = worker.do(read_upload, Path(path))
        painting.thumbnail((THUMB, THUMB))
        return gr.update(value=painting, visible=True)

    def show_painted(
        photo: str | None,
        canvas: dict[str, Any] | None,
        look: str | None,
        painting: str | None,
        strength: float,
        keep_colors: bool,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        strokes = canvas["layers"][0] if canvas and canvas["layers"] else None
        with in_words():
            visits.count(visitor(request))
            answer = worker.do(
                paint, stylizer, Path(photo) if photo else None, strokes, look,
                Path(painting) if painting else None, strength, keep_colors,
            )  # fmt: skip
            file = Path(mkdtemp(dir=folder)) / f"{Path(photo or '').stem}-stylized.png"
            save_image(answer.stylized, file)
        return (
            (answer.photo, answer.stylized), answer.sentence,
            gr.update(value=str(file), interactive=True), answer.attention,
        )  # fmt: skip

    with gr.Blocks(title="Underdrawing", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        gr.Markdown(HEADING)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = gr.File(label="Photo", file_types=["image"], height=130, elem_id="photo")
                samples = gr.Gallery(
                    [str(path) for path in sample_photos()], visible=bool(sample_photos()),
                    show_label=False, columns=4, height=120, object_fit="cover",
                    allow_preview=False, buttons=[], elem_id="samples",
                )  # fmt: skip
                brush = gr.ImageEditor(
                    label="Brush over what is to stay a photo", visible=False, type="pil",
                    sources=(), transforms=(), layers=False, buttons=[], elem_id="brush",
                    brush=gr.Brush(colors=[BRUSH + "b0"], color_mode="fixed", default_size=40),
                )  # fmt: skip
                size = gr.Markdown()
                look = gr.Dropdown(
                    list(stylizer.styles), label="Look", visible=bool(stylizer.styles)
                )
                painting = gr.File(
                    label="Or a painting of your own" if stylizer.styles else "Painting",
                    file_types=["image"], height=130, elem_id="painting",
                )  # fmt: skip
                shown = gr.Image(
                    label="Painting",
                    visible=False,
                    interactive=False,
                    buttons=[],
                    height=200,
                    elem_id="thumbnail",
                )
                strength = gr.Slider(
                    0, 1, 1, step=0.05, label="Strength", info="0 keeps the photo, 1 paints it over"
                )
                keep = gr.Checkbox(label="Keep the photo's colors")
            with gr.Column(scale=3, min_width=320):
                button = gr.Button("Paint", variant="primary")
                result = gr.ImageSlider(
                    label="Before and after", interactive=False, buttons=["fullscreen"],
                    max_height=640, elem_id="result",
                )  # fmt: skip
                took = gr.Markdown()
                download = gr.DownloadButton("Download", interactive=False)
                attention = gr.Image(
                    label="Attention: where the photo is about to lose its content",
                    visible=stylizer.generator.attention is not None, interactive=False, height=420,
                    buttons=["fullscreen"], elem_id="attention",
                )  # fmt: skip

        one = {"concurrency_limit": 1, "concurrency_id": "work", "api_visibility": "private"}
        photo.change(show_photo, photo, [brush, size], **one).failure(
            lambda: (None, CLEARED, ""), None, [photo, brush, size]
        )
        brush.clear(show_photo, photo, [brush, size], **one)
        painting.change(show_painting, painting, shown, **one).failure(
            lambda: (None, CLEARED), None, [painting, shown]
        )
        samples.select(chosen_sample, None, photo, **one)
        button.click(
            show_painted, [photo, brush, look, painting, strength, keep],
            [result, took, download, attention], **one,
        )  # fmt: skip
    return page.queue(max_size=WAITING)


def sample_photos() -> list[Path]:
    """Photos to try the page on; none where the extra ``demo`` is not installed."""
    try:
        return [shipped(name) for name in SAMPLES]
    except ValueError:
        return []


def chosen_sample(event: gr.SelectData) -> str:
    """The photo at the place that was clicked."""
    return str(sample_photos()[event.index])


def visitor(request: gr.Request) -> str:
    """Whom a request comes from: the address."""
    return request.client.host if request.client else ""


@contextmanager
def in_words() -> Iterator[None]:
    """What a visitor can mend becomes a sentence on the page; a bug shows in the terminal."""
    try:
        yield
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        sentence = explain_error(error, "stylize")
        if sentence is None:
            raise
        raise gr.Error(html.escape(sentence), title="", print_exception=False) from None
