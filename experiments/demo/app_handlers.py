"""Handlers of the page, independent of Gradio: stylize uploads, within limits on size and rate."""

import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFilter

from ...data.convert import to_batch
from ...data.images import read_image, to_image
from ...models.generator import MIN_SIDE
from ...trainers.stylizer import Stylizer
from ...trainers.visualize import overlay

MAX_SIDE = 2048  # pixels; larger photos are downscaled
PER_MINUTE = 40  # requests per client
MAX_CLIENTS = 10_000  # that are remembered
MIN_ALPHA = 32  # of 255, of a pixel that counts as brushed
BLUR = 0.005  # of a stroke's edge, relative to the longer side


class Result(NamedTuple):
    """Images of one size and a line of text; ``attention`` is None if the model has no branch."""

    photo: Image.Image
    stylized: Image.Image
    attention: Image.Image | None
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
    stylizer: Stylizer, photo: Path | None, strokes: Image.Image | None, named_style: str | None,
    painting: Path | None, strength: float, keep_colors: bool,
) -> Result:  # fmt: skip
    """Stylize an uploaded photo; an uploaded painting takes precedence over the named style.

    Raises:
        ValueError: no photo, no style, or an unreadable file.
    """
    if photo is None:
        raise ValueError("choose a photo first")
    if painting is None and named_style not in stylizer.styles:
        raise ValueError("choose a style or a painting first")
    start = time.perf_counter()
    content, _ = read_photo(photo)
    code = stylizer.code(read_upload(painting) if painting else str(named_style))
    protect = protected_region(strokes)
    stylized = stylizer.stylize(content, code, strength, protect=protect, keep_colors=keep_colors)
    attention = None
    if stylizer.generator.attention is not None:
        attention = to_image(overlay(to_batch(content), stylizer.attention(content).cpu())[0])
    seconds = time.perf_counter() - start
    text = f"{content.width}×{content.height} pixels in {seconds:.1f} s"
    return Result(content, stylized, attention, text)


class RateLimiter:
    """Limit each client to ``PER_MINUTE`` requests per minute."""

    def __init__(self) -> None:
        self.times: dict[str, deque[float]] = {}  # least recent client first

    def count(self, client: str) -> None:
        """Count one request.

        Raises:
            ValueError: too many requests.
        """
        now = time.monotonic()
        times = self.times[client] = self.times.pop(client, deque())
        if len(self.times) > MAX_CLIENTS:
            del self.times[next(iter(self.times))]
        while times and now - times[0] > 60:
            times.popleft()
        if len(times) >= PER_MINUTE:
            wait = 60 - (now - times[0])
            raise ValueError(f"more than {PER_MINUTE} requests in a minute: wait {wait:.0f} s")
        times.append(now)
