"""Random and damaged files: `read_image` returns an image or raises an ImageError.

For more cases, under a memory limit: `ulimit -v 8000000; FUZZ_EXAMPLES=2600 pytest --timeout 3600`.
"""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from underdrawing.data import images
from underdrawing.data.images import SUFFIXES, ImageError, read_image

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # per group
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
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A file with bytes changed, removed, inserted or copied from another file."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        reach = draw(st.sampled_from([64, len(content), len(content), len(content)]))
        at = draw(st.integers(0, min(reach, len(content))))
        match draw(st.sampled_from(["set", "set", "set", "cut", "end", "splice", "insert"])):
            case "set":
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del content[at : at + draw(st.integers(1, 300))]
            case "end":
                del content[at + 12 :]
            case "splice":
                other = draw(st.sampled_from(files))
                start = draw(st.integers(0, len(other)))
                content[at : at + 200] = other[start : start + draw(st.integers(1, 400))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=8)) * draw(
                    st.sampled_from([1, 1, 50])
                )
    return bytes(content)


@st.composite
def claimed(draw: st.DrawFn) -> bytes:
    """A header that claims any size."""
    sides = st.one_of(st.integers(1, 70), st.integers(1, 2**31 - 1), st.just(30_000))
    width, height = draw(sides), draw(sides)
    match draw(st.sampled_from(["PNG", "BMP", "PPM", "PFM", "TIFF", "JPEG", "GIF"])):
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
        case "TIFF":  # a tile, in an image of that size
            tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1),
                    (322, height), (323, width), (324, 200), (325, 100)]  # fmt: skip
            entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
            head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
            return head.ljust(200, b"\0") + zlib.compress(bytes(100_000))
        case "JPEG":
            file = bytearray(encode("JPEG", "RGB", {}))
            at = file.index(b"\xff\xc0") + 5
            file[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
            return bytes(file)
    file = bytearray(encode("GIF", "P", {}))
    file[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(file)


GROUPS: dict[str, st.SearchStrategy[bytes]] = {
    **{kind: damaged([encode(kind, *v) for v in VARIANTS[kind]]) for kind in VARIANTS},
    "profile": st.builds(
        lambda profile: encode("JPEG", "RGB", {"icc_profile": profile}), damaged([PROFILE])
    ),
    "exif": st.builds(
        lambda tags: encode("JPEG", "RGB", {"exif": b"Exif\0\0" + tags}),
        damaged([EXIF.tobytes()[6:]]),
    ),
    "sizes": claimed(),
}


@pytest.mark.parametrize("image_format", VARIANTS)
def test_undamaged_files_are_read(image_format: str, tmp_path: Path) -> None:
    assert image_format in SUFFIXES.values()
    for variant in VARIANTS[image_format]:
        (tmp_path / "file").write_bytes(encode(image_format, *variant))
        assert max(read_image(tmp_path / "file").size) == 31


@pytest.mark.parametrize("group", GROUPS)
def test_any_file_is_an_image_or_an_image_error(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", LIMIT)
    path = tmp_path / "file.jpg"

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(GROUPS[group])
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
