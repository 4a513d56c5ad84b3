"""JPEG files whose end is missing, as interrupted downloads and card readers leave them."""

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageChops

END_OF_JPEG = b"\xff\xd9"
MAX_LOST_ROWS = 17  # a row of blocks of 16, and one row by interpolated color


def complete_jpeg(content: bytes) -> bytes:
    """Add the end marker that a JPEG lacks; missing blocks, at most the last row, become gray.

    Raises:
        ValueError: more is missing (or more than an eighth of a small image).
    """
    body = content.rstrip(b"\xff")  # half of a marker
    # Libjpeg decodes missing blocks as gray. They are found by their change with random fillers.
    gray, *filled = (
        Image.open(io.BytesIO(body + filler + END_OF_JPEG), formats=["JPEG"])
        for filler in [b"", *_fillers(body)]
    )
    changes = [ImageChops.difference(gray, other).getbbox() for other in filled]
    lost = max(gray.height - change[1] if change else 0 for change in changes)
    if lost > min(MAX_LOST_ROWS, gray.height // 8) or not _has_all_scans(gray, body):
        raise ValueError("much of its end is missing")
    return body + END_OF_JPEG


def _fillers(body: bytes) -> Iterator[bytes]:
    """Yield random data with the restart markers that follow those of a JPEG's last scan."""
    rng = np.random.default_rng(0)
    last = re.findall(rb"\xff([\xd0-\xd7\xda])", body)[-1][0]  # restart or start of the scan
    first = 0 if last == 0xDA else last % 8 + 1
    for _ in range(3):
        noise = rng.integers(255, size=(8, 64), dtype=np.uint8)  # without 255, which is a marker
        yield b"".join(
            part.tobytes() + bytes([0xFF, 0xD0 + (first + number) % 8])
            for number, part in enumerate(noise)
        )


def _has_all_scans(image: Image.Image, content: bytes) -> bool:
    """Return whether a JPEG, if progressive, holds the last bit of every coefficient."""
    if "progressive" not in image.info:
        return True
    complete = set()
    main = content.rindex(b"\xff\xc2")  # not the one of a thumbnail
    for marker in re.finditer(b"\xff\xda", content[main:]):
        scan = content[main + marker.end() + 2 :]
        components, (first, last, bits) = scan[1 : 2 * scan[0] : 2], scan[2 * scan[0] + 1 :][:3]
        if bits & 15 == 0:
            complete |= {(one, k) for one in components for k in range(first, last + 1)}
    return len(complete) == 64 * len(image.getbands())
