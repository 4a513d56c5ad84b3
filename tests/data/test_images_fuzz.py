"""Random and damaged files: `read_image` returns an image or raises an ImageError.

For more cases, under a memory limit: `ulimit -v 8000000; FUZZ_EXAMPLES=2600 pytest --timeout 3600`.
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from underdrawing.data import images
from underdrawing.data.images import SUFFIXES, ImageError, read_image

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # per group
Damaged = Callable[[list[bytes]], st.SearchStrategy[bytes]]  # the fixture of that name
LIMIT = 10**6  # pixels; a file just below the real limit takes a second

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010F] = "maker"
TAGGED: dict[str, object] = {"exif": EXIF, "icc_profile": PROFILE}
ANIMATED: dict[str, object] = {"save_all": True, "append_images": [PHOTO.rotate(90)]}
#: Format -> modes and options of the files that are damaged.
VARIANTS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "JPEG": [
        ("RGB", TAGGED), ("RGB", {"progressive": True}), ("CMYK", {"icc_profile": PROFILE}),
        ("L", {}),
    ],
    "PNG": [
        ("RGB", TAGGED), ("P", {"transparency": 3}), ("I;16", {}), ("1", {}),
        ("RGBA", {"save_all": True, "append_images": [PHOTO.convert("RGBA")]}),
    ],
    "WEBP": [("RGB", TAGGED), ("RGBA", {"lossless": True}), ("RGB", ANIMATED)],
    "BMP": [("RGB", {}), ("P", {}), ("1", {}), ("RGBA", {})],
    "TIFF": [
        ("RGB", TAGGED), ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"}),
        ("1", {"compression": "group4"}), ("CMYK", {"compression": "tiff_adobe_deflate"}),
        ("F", {}), ("I;16", {}), ("LAB", {}),
    ],
    "GIF": [("P", {"transparency": 3}), ("RGB", ANIMATED)],
    "PPM": [("RGB", {}), ("L", {}), ("1", {}), ("I;16", {}), ("F", {})],
    "AVIF": [("RGB", TAGGED), ("RGBA", {"quality": 30})],
}  # fmt: skip


def encode(image_format: str, mode: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image = PHOTO.convert("I").convert("I;16") if mode == "I;16" else PHOTO.convert(mode)
    if mode == "F":
        image = Image.fromarray(np.asarray(image) / 255)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@st.composite
def claimed(draw: st.DrawFn) -> bytes:
    """A header that claims any size."""
    sides = st.one_of(st.integers(1, 70), st.integers(1, 2**31 - 1), st.just(30_000))
    width, height = draw(sides), draw(sides)
    match draw(st.sampled_from(["PNG", "BMP", "PPM", "PFM", "JPEG", "GIF"])):
        case "PNG":
            body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n\0\0\0\r" + body + zlib.crc32(body).to_bytes(4)
        case "BMP":
            sizes = struct.pack("<IIIIiiHH", 99, 0, 54, 40, width, height, 1, 24)
            return b"BM" + sizes + bytes(99)
        case "PPM":
            return b"P6 %d %d 255\n" % (width, height) + bytes(99)
        case "PFM":
            return b"Pf\n%d %d\n-1.0\n" % (width, height) + b"\xff" * 99
        case "JPEG":
            file = bytearray(encode("JPEG", "RGB", {}))
            at = file.index(b"\xff\xc0") + 5
            file[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
            return bytes(file)
    file = bytearray(encode("GIF", "P", {}))
    file[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(file)


def contents(group: str, damaged: Damaged) -> st.SearchStrategy[bytes]:
    match group:
        case "sizes":
            return claimed()
        case "profile":
            profiles = damaged([PROFILE])
            return profiles.map(lambda profile: encode("JPEG", "RGB", {"icc_profile": profile}))
        case "exif":
            tags = damaged([EXIF.tobytes()[6:]])
            return tags.map(lambda x: encode("JPEG", "RGB", {"exif": b"Exif\0\0" + x}))
    return damaged([encode(group, *variant) for variant in VARIANTS[group]])


@pytest.mark.parametrize("image_format", VARIANTS)
def test_undamaged_files_are_read(image_format: str, tmp_path: Path) -> None:
    assert image_format in SUFFIXES.values()
    for variant in VARIANTS[image_format]:
        (tmp_path / "file").write_bytes(encode(image_format, *variant))
        assert max(read_image(tmp_path / "file").size) == 31


@pytest.mark.parametrize("group", [*VARIANTS, "profile", "exif", "sizes"])
def test_any_file_is_an_image_or_an_image_error(
    group: str, damaged: Damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", LIMIT)
    path = tmp_path / "file.jpg"

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(contents(group, damaged))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = read_image(path)
            except ImageError as error:
                message = str(error)
                assert message.isprintable()
                assert str(path) in message
                assert len(message) < 1000
            else:
                assert image.mode == "RGB"
                assert 1 <= image.width * image.height <= LIMIT
        assert all("lacks its end" in str(warning.message) for warning in caught)

    check()
