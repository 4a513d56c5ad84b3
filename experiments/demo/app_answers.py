"""What the page answers: pictures and sentences from what visitors send, within limits."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from PIL import Image, ImageFilter

from ...data.convert import to_batch
from ...data.images import read_image, to_image
from ...models.generator import MIN_SIDE
from ...trainers.stylizer import Stylizer
from ...trainers.visualize import overlay

MAX_BYTES = 32 * 2**20  # of an upload
MAX_SIDE = 2048  # pixels: larger photos are reduced
SECONDS = 60.0  # that an answer may take
PER_MINUTE = 40  # answers to one visitor
VISITORS = 10_000  # remembered at a time
INK = 32  # of 255: a stroke's pixels are at least as opaque
SOFT = 0.005  # of the longer side: how far a stroke's edge is softened

P = ParamSpec("P")
T = TypeVar("T")


class Painted(NamedTuple):
    """A result: pictures of one size, and a sentence on how they came about.

    ``attention`` is the map A laid over the photo; None if the model has none.
    """

    photo: Image.Image
    stylized: Image.Image
    attention: Image.Image | None
    sentence: str


def read_upload(path: Path) -> Image.Image:
    """An uploaded picture as ``read_image`` has it, named as its owner named it.

    Raises:
        ValueError: it is no picture, or damaged, or too large; or it was uploaded too long ago.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path.name} is not kept any longer: choose it again") from None
    return read_image(Path(path.name), content=content)


def read_photo(path: Path) -> tuple[Image.Image, str]:
    """A photo of at most ``MAX_SIDE`` pixels a side, and a sentence on its size.

    Raises:
        ValueError: it cannot be read, or is too small or too narrow.
    """
    photo = read_upload(path)
    size = f"{photo.width}×{photo.height} pixels"
    photo.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if min(photo.size) < MIN_SIDE:
        raise ValueError(
            f"{path.name} has {size}: each side must be at least {MIN_SIDE}, also when the longer "
            f"one is reduced to {MAX_SIDE}"
        )
    reduced = f"{photo.width}×{photo.height} pixels"
    return photo, f"{size}." if reduced == size else f"{size}, reduced to {reduced}."


def kept_region(strokes: Image.Image | None) -> Image.Image | None:
    """What the brush went over, white on black with soft edges; None if that is nothing.

    Args:
        strokes: the brush's layer, transparent where it was not.
    """
    if strokes is None:
        return None
    kept = strokes.convert("RGBA").getchannel("A").point(lambda a: 255 * (a >= INK))
    soft = kept.filter(ImageFilter.GaussianBlur(SOFT * max(kept.size)))
    return soft if kept.getbbox() else None


def paint(
    stylizer: Stylizer,
    photo: Path | None,
    strokes: Image.Image | None,
    look: str | None,
    painting: Path | None,
    strength: float,
    keep_colors: bool,
) -> Painted:
    """Stylize an uploaded photo. A painting, where there is one, goes before the look.

    Raises:
        ValueError: there is no photo or no style; or they cannot be read or used.
    """
    if photo is None:
        raise ValueError("choose a photo first")
    if painting is None and look not in stylizer.styles:
        raise ValueError("choose a painting first")
    start = time.perf_counter()
    content, _ = read_photo(photo)
    style = read_upload(painting) if painting else look
    assert style is not None
    stylized = stylizer.stylize(
        content, stylizer.code(style), strength,
        protect=kept_region(strokes), keep_colors=keep_colors,
    )  # fmt: skip
    attention = None
    if stylizer.generator.attention is not None:
        attention = to_image(overlay(to_batch(content), stylizer.attention(content).cpu())[0])
    seconds = time.perf_counter() - start
    size = f"{content.width}×{content.height}"
    return Painted(content, stylized, attention, f"{size} pixels in {seconds:.1f} s.")


class Visits:
    """Counts what each visitor asks for in a minute."""

    def __init__(self) -> None:
        self.times: dict[str, deque[float]] = {}

    def count(self, visitor: str) -> None:
        """Count one more.

        Raises:
            ValueError: they were too many.
        """
        now = time.monotonic()
        times = self.times.pop(visitor, deque())  # put back last: those first are longest away
        self.times[visitor] = times
        if len(self.times) > VISITORS:
            del self.times[next(iter(self.times))]
        while times and now - times[0] > 60:
            times.popleft()
        if len(times) >= PER_MINUTE:
            wait = 60 - (now - times[0])
            raise ValueError(
                f"that was more than {PER_MINUTE} times in a minute: wait {wait:.0f} s"
            )
        times.append(now)


class Worker:
    """Does one thing at a time, and answers in time or says so."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the work returns or raises.

        Raises:
            ValueError: it takes too long; a computation under way still goes on to its end.
        """
        job = self.thread.submit(work, *args, **kwargs)
        try:
            return job.result(SECONDS)
        except TimeoutError:
            job.cancel()
            raise ValueError(
                f"that took longer than {SECONDS:.0f} s and was given up: take a smaller photo, "
                "or try again later"
            ) from None
