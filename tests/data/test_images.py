import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from underdrawing.data.images import (
    ImageError,
    read_image,
    save_image,
    square,
    to_image,
    to_rgb,
    to_tensor,
)

Pixel = tuple[int, ...]
WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLORS: list[Pixel] = [(i, 2 * i, 255 - i) for i in range(0, 120, 20)]
GRID = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 13  # six colors, no symmetry


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(path: Path) -> list[Pixel]:
    image = read_image(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


# --- EXIF -------------------------------------------------------------------------------------

#: EXIF orientation -> how to rotate the stored pixels.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
    9: lambda a: a,  # does not exist
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "rotated.png"
    Image.fromarray(GRID).save(path, exif=exif(orientation))
    image = read_image(path)
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT[orientation](GRID))
    image.save(path)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(image))


def ifd(start: int, *tags: bytes) -> bytes:
    return struct.pack("<2sHIH", b"II", 42, start, len(tags)) + b"".join(tags) + bytes(4)


ROTATED = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
DAMAGED_EXIF = {
    "offset beyond the end": (ifd(2**31), 1),
    "orientation beside text in the place of a number": (
        ifd(8, ROTATED, struct.pack("<HHI4s", 0x0154, 2, 4, b"abc")), 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_EXIF)
def test_damaged_exif_is_tolerated(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    tags, orientation = DAMAGED_EXIF[damage]
    Image.fromarray(GRID).save(path, exif=b"Exif\0\0" + tags)
    np.testing.assert_array_equal(np.asarray(read_image(path)), UPRIGHT[orientation](GRID))


# --- modes ------------------------------------------------------------------------------------


FIFTHS = np.array([[0, 0.2, 1]])


def tiff(*planes: np.ndarray | bytes, order: str = "<", **tags: int | tuple[int, ...]) -> bytes:
    """A TIFF of 3 x 1 pixels, with one strip per plane; tags are LONG numbers."""
    strips = [plane if isinstance(plane, bytes) else plane.tobytes() for plane in planes]
    sizes = tuple(map(len, strips))
    offsets = tuple(8 + sum(sizes[:number]) for number in range(len(sizes)))
    fields = {"ImageWidth": 3, "ImageLength": 1, "StripOffsets": offsets, "StripByteCounts": sizes}
    entries = more = b""
    more_at = 8 + sum(sizes) + 12 * len(fields | tags) + 6
    for tag, value in sorted((ExifTags.Base[name], v) for name, v in (fields | tags).items()):
        values = value if isinstance(value, tuple) else (value,)
        inline = values if len(values) == 1 else (more_at + len(more),)
        more += struct.pack(f"{order}{len(values)}L", *values) if len(values) > 1 else b""
        entries += struct.pack(f"{order}HHLL", tag, 4, len(values), *inline)
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HL", 42, 8 + sum(sizes)) + b"".join(strips)
    return head + struct.pack(f"{order}H", len(fields | tags)) + entries + bytes(4) + more


U8, U16, U32 = (np.round(FIFTHS * (2**bits - 1)).astype(f"<u{bits // 8}") for bits in (8, 16, 32))
F32 = FIFTHS.astype("<f4")
GRAY: dict[str, Any] = {"PhotometricInterpretation": 1}
PLANES: dict[str, Any] = {
    "PhotometricInterpretation": 2,
    "SamplesPerPixel": 3,
    "PlanarConfiguration": 2,
}
FIFTH = (51, 51, 51)


@pytest.mark.parametrize(
    "content",
    [
        tiff(U8, BitsPerSample=8, **GRAY),
        tiff(~U16, BitsPerSample=16, PhotometricInterpretation=0),
        tiff(U16.astype(">u2"), order=">", BitsPerSample=16, **GRAY),
        tiff(bytes.fromhex("000333fff0"), BitsPerSample=12, **GRAY),
        tiff(U32, BitsPerSample=32, **GRAY),
        tiff(U16.astype("<i4"), BitsPerSample=32, SampleFormat=2, **GRAY),
        tiff(1 - F32, BitsPerSample=32, SampleFormat=3, PhotometricInterpretation=0),
        tiff(F32.astype(">f4"), order=">", BitsPerSample=32, SampleFormat=3, **GRAY),
        tiff(U8, U8, U8, BitsPerSample=(8, 8, 8), **PLANES),
        tiff(
            U16.repeat(3), BitsPerSample=(16, 16, 16), PhotometricInterpretation=2,
            SamplesPerPixel=3,
        ),
    ],
)  # fmt: skip
def test_tiffs_of_any_encoding_are_decoded_exactly(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image.tif").write_bytes(content)
    assert pixels(tmp_path / "image.tif") == [(0, 0, 0), FIFTH, WHITE]


WRONGLY_DECODED = {
    "signed": tiff(U16 // 2, BitsPerSample=16, SampleFormat=2, **GRAY),
    "32-bit integers": tiff(U32 // 2, BitsPerSample=32, SampleFormat=2, **GRAY),

    "separate planes of 16 bits": tiff(U16, U16, U16, BitsPerSample=(16, 16, 16), **PLANES),

    "compressed big-endian": tiff(
        zlib.compress(F32.astype(">f4").tobytes()), order=">", BitsPerSample=32, SampleFormat=3,
        Compression=8, **GRAY,
    ),
    "inverted inks": tiff(
        U8.repeat(4), BitsPerSample=(8, 8, 8, 8), PhotometricInterpretation=5, SamplesPerPixel=4,
        DotRange=(255, 0),
    ),

    "photometric interpretation": tiff(U8, BitsPerSample=8),
    "must lie in": tiff(255 * F32, BitsPerSample=32, SampleFormat=3, **GRAY),
    "must lie in ": tiff(F32 * np.float32(np.nan), BitsPerSample=32, SampleFormat=3, **GRAY),
    "transparent color of 16 bits": encode(Image.fromarray(U16), "PNG", transparency=13107),
}  # fmt: skip


@pytest.mark.parametrize("problem", WRONGLY_DECODED)
def test_what_pillow_decodes_wrongly_is_refused(problem: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(WRONGLY_DECODED[problem])
    with pytest.raises(ImageError, match=rf"image\.tif: .*{problem.strip()}.*; save it") as caught:
        read_image(path)
    assert caught.value.kind == "unsupported encoding"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_deep_images_of_8_bit_values_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="but are 0 to 255"):
        to_rgb(Image.fromarray(U8).convert(mode))


# --- color profiles ---------------------------------------------------------------------------


def icc(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A color profile of these tags."""
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(
        ">I4sI4s4s4s12x4s28x3i", start + len(data), b"lcms", 0x02400000, kind, space, connection,
        b"acsp", 63190, 65536, 54061,
    )  # fmt: skip
    return head.ljust(128, b"\0") + table + data


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
#: sRGB with red and green exchanged.
SWAPPED = SRGB.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
LINEAR_GRAY = icc(b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, 256)})
RAMP = bytes(range(256))
#: CMYK in which every ink is middle gray, and all together are black.
GRAY_INKS = icc(
    b"CMYK", b"Lab ",
    {
        b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *np.eye(3, dtype=int).ravel() << 16)
        + RAMP * 4
        + b"\xff\x80\x80" + b"\x80\x80\x80" * 14 + b"\x00\x80\x80"
        + RAMP * 3
    },
)  # fmt: skip


def row(*values: object, dtype: type[np.generic] = np.uint8) -> Image.Image:
    """An image of one row of pixels."""
    return Image.fromarray(np.array([values], dtype))


def gray(*levels: int) -> list[Pixel]:
    return [(level,) * 3 for level in levels]


INKS, RED_IMAGE = Image.new("CMYK", (16, 16), (0, 255, 255, 0)), Image.new("RGB", (16, 16), RED)
ALPHA = row((*RED, 0), (*RED, 255), (*RED, 51))
PALETTE = row(0, 1).convert("P")
PALETTE.putpalette([*BLUE, *RED])
WIDE: dict[str, Any] = {"icc_profile": SWAPPED, "quality": 95}
LINEAR: dict[str, Any] = {"icc_profile": LINEAR_GRAY}
BESIDE_WHITE: dict[str, Any] = {"transparency": 0}
INVALID_PROFILES = [
    b"garbage" * 40,
    SWAPPED[:300],
    GRAY_INKS,
    LINEAR_GRAY,
    SWAPPED + bytes(5 * 2**20),
]
#: Name of a file -> image, options of saving it, the pixels read (of a flat image, one), tolerance.
CONVERTED: dict[str, tuple[Image.Image, dict[str, Any], list[Pixel], int]] = {
    "1 bit.png": (row(True, False, dtype=np.bool_).convert("1"), {}, gray(255, 0), 0),
    "8 bits.png": (row(0, 77, 255), {}, gray(0, 77, 255), 0),
    **{
        f"16 bits.{kind}": (row(0, 257, 32768, dtype=np.uint16), {}, gray(0, 1, 128), 0)
        for kind in ("png", "tif")
    },
    "16 in 32 bits.tif": (row(0, 13107, 65535, dtype=np.int32), {}, gray(0, 51, 255), 0),
    "float.tif": (row(-0.1, 0, 0.2, 1, 1.1, dtype=np.float32), {}, gray(0, 0, 51, 255, 255), 0),
    **{f"inks.{kind}": (INKS, {}, [RED], 3) for kind in ("jpg", "tif")},
    **{
        f"inks with a profile.{kind}": (INKS, {"icc_profile": GRAY_INKS}, gray(119), 3)
        for kind in ("jpg", "tif")
    },
    **{
        f"profile.{kind}": (RED_IMAGE, WIDE, [GREEN], 5)
        for kind in ("png", "jpg", "webp", "tif", "avif")
    },

    "deep gray profile.png": (
        row(0, 55 * 257, 65535, dtype=np.uint16), LINEAR, gray(0, 128, 255), 1,
    ),
    "gray with a color profile.png": (row(0, 55, 255), WIDE, gray(0, 55, 255), 0),
    "alpha.png": (ALPHA, {}, [WHITE, RED, (255, 204, 204)], 0),
    "gray alpha.png": (row((0, 0), (0, 255), (0, 51)), {}, gray(255, 0, 204), 0),

    "palette with alpha and profile.png": (
        ALPHA.quantize(3), WIDE, [WHITE, GREEN, (204, 255, 204)], 1,
    ),

    "palette.gif": (PALETTE, BESIDE_WHITE, [WHITE, RED], 0),
    "transparent color.png": (row(BLUE, RED), {"transparency": BLUE}, [WHITE, RED], 0),
    "film.gif": (RED_IMAGE, {"save_all": True, "append_images": [row(BLUE)]}, [RED], 0),
    "sRGB profile.png": (row(*COLORS), {"icc_profile": SRGB}, COLORS, 0),
    **{
        f"invalid profile {number}.tif": (row(*COLORS), {"icc_profile": profile}, COLORS, 0)
        for number, profile in enumerate(INVALID_PROFILES)
    },
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CONVERTED)
def test_images_are_read_as_8_bit_srgb_over_white(name: str, tmp_path: Path) -> None:
    image, options, expected, tolerance = CONVERTED[name]
    image.save(tmp_path / name, **options)
    found = pixels(tmp_path / name)
    np.testing.assert_allclose(found, expected * (len(found) // len(expected)), atol=tolerance)


# --- unreadable files -------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiled(width: int, height: int) -> bytes:
    """A TIFF of one pixel, in a compressed tile of any size."""
    body = zlib.compress(bytes(width))
    tags = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1), (322, width),
            (323, height), (324, 134), (325, len(body))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + body


PROGRESSIVE = encode(noise(32, 32), "JPEG", progressive=True)
SCANS = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] * 120
#: File name -> content, message, kind.
UNREADABLE: dict[str, tuple[bytes, str, str]] = {
    "text.jpg": (b"This is not an image.", "is not an image", "not an image"),
    "empty.jpg": (b"", "is empty", "empty"),
    "half.jpg": (encode(noise(64, 64), "JPEG")[:1500], "cannot be read", "damaged"),
    "start.png": (encode(noise(64, 64), "PNG")[:30], "is not an image", "not an image"),
    "half.png": (encode(noise(64, 64), "PNG")[:6000], "cannot be read", "damaged"),
    "half.webp": (encode(noise(64, 64), "WEBP")[:1000], "cannot be read", "damaged"),
    "x.avif": (encode(noise(64, 64), "AVIF").replace(b"iloc", b"free"), "cannot", "damaged"),
    "bomb.png": (png_header(10_001, 10_000), "more than 100 million pixels", "too large"),
    "tile.tif": (tiled(32_768, 32_768), "more than 100 million pixels", "too large"),
    "small tile.tif": (tiled(256, 16), "cannot be read", "damaged"),
    "scans.jpg": (PROGRESSIVE[:-2] + SCANS, "more than 100 scans", "damaged"),
}


@pytest.mark.parametrize("at_least", [None, 32])
@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_one_line(name: str, at_least: int | None, tmp_path: Path) -> None:
    path = tmp_path / name
    content, message, kind = UNREADABLE[name]
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path, at_least)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.kind == kind


ROWS = np.arange(304 * 96).reshape(304, 96) % 211
SHADES = Image.fromarray(np.stack([ROWS, ROWS // 2, 255 - ROWS], -1).astype(np.uint8))
THUMBNAIL = exif(1)
THUMBNAIL[0x927C] = encode(noise(16, 16), "JPEG")
JPEGS = {
    "baseline": encode(SHADES, "JPEG"),
    "gray": encode(SHADES.convert("L"), "JPEG"),
    "CMYK": encode(SHADES.convert("CMYK"), "JPEG"),
    "restart markers": encode(SHADES, "JPEG", restart_marker_rows=1),
    "progressive with both": encode(SHADES, "JPEG", progressive=True, restart_marker_rows=4),
    "progressive": encode(SHADES, "JPEG", progressive=True, exif=THUMBNAIL),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_loses_a_row_of_blocks_or_is_refused(
    kind: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "cut.jpg", JPEGS[kind]
    whole = np.asarray(read_image(path, content=content))

    def lost_rows(cut: int) -> int | None:
        path.write_bytes(content[:-cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = read_image(path)
            except ImageError:
                return None
        note = f"{path} lacks its end; its last rows may be gray"
        assert [str(w.message) for w in caught] == [note] * ("incomplete" in image.info)
        rows = np.flatnonzero((np.asarray(image) != whole).any((1, 2)))
        return len(whole) - int(rows[0]) if rows.size else 0

    few = [lost_rows(cut) for cut in (1, 2, 3, 9, 17)]
    assert few[:2] == [0, 0]
    assert None not in few
    markers = re.finditer(rb"\xff[\xd0-\xd7\xda]", content[1000:])  # between restarts and scans
    ends = {len(content) - 1000 - end for at in markers for end in at.span()}
    steps = range(33, len(content) - 1000, len(content) // 20)
    many = [lost_rows(cut) for cut in sorted({*steps, *ends})]
    assert max(lost for lost in [*few, *many] if lost is not None) <= 17
    assert set(many[len(many) // 4 :]) == {None}
    assert read_image(path, content=content[:-9], at_least=32).info["incomplete"]


def test_a_file_without_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    noise(2, 2).save(tmp_path / "secret.png")
    monkeypatch.setattr(Image, "open", refuse)  # root can read everything
    with pytest.raises(ImageError, match=r"no permission to read .*secret\.png"):
        read_image(tmp_path / "secret.png")


def test_an_enormous_file_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sparse.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, 50 * 2**30)
    with pytest.raises(ImageError, match=r"sparse\.webp has more than 536 MB"):
        read_image(path)


@pytest.mark.parametrize("image_format", ["JPEG", "GIF"])
def test_the_format_is_that_of_the_content(image_format: str, tmp_path: Path) -> None:
    path = tmp_path / "misnamed.webp"
    path.write_bytes(encode(Image.new("RGB", (16, 16), BLUE), image_format, progressive=True))
    np.testing.assert_allclose(pixels(path), [BLUE] * 256, atol=2)


@pytest.mark.parametrize("image_format", ["EPS", "ICO", "TGA", "PCX", "JPEG2000", "PDF"])
def test_unlisted_formats_are_not_decoded(image_format: str, tmp_path: Path) -> None:
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(encode(noise(32, 32), image_format))
    with pytest.raises(ImageError, match="is not an image"):
        read_image(path)


# --- sizes, tensors, writing ------------------------------------------------------------------


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(8, 500), st.integers(8, 500), st.integers(1, 300))
def test_reduced_decoding_keeps_the_shorter_side(width: int, height: int, at_least: int) -> None:
    photo = Image.new("RGB", (width, height))
    size = read_image(Path("a.jpg"), at_least, encode(photo, "JPEG")).size
    assert min(size) >= min(at_least, width, height)
    assert (
        min(size) < 2 * at_least or min(width, height) // at_least >= 16 or size == (width, height)
    )
    assert size[0] / size[1] == pytest.approx(width / height, rel=1 / min(size))
    rotated = read_image(Path("a.jpg"), at_least, encode(photo, "JPEG", exif=exif(6)))
    assert rotated.size == size[::-1]


def test_to_image_inverts_to_tensor() -> None:
    array = np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)  # every value
    tensor = to_tensor(Image.fromarray(array))
    assert (tensor.shape, tensor.dtype) == ((3, 16, 16), torch.float32)
    np.testing.assert_array_equal(np.asarray(to_image(tensor)), array)


def test_to_image_rounds_and_clamps() -> None:
    tensor = torch.tensor([-3.0, 0.4, 0.6, 254.4, 254.6, 300.0]).div(255).expand(3, 1, 6)
    assert np.asarray(to_image(tensor))[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".jpg"])
def test_a_saved_image_reads_back(suffix: str, tmp_path: Path) -> None:
    tensor = torch.linspace(0, 255, 32).round().div(255).expand(3, 32, 32)
    path = tmp_path / "new" / "folder" / f"out{suffix}"
    save_image(tensor, path)
    error = (to_tensor(read_image(path)) - tensor).abs().max()
    assert error < 0.02 if suffix == ".jpg" else error == 0
    assert list(path.parent.iterdir()) == [path]


def test_square_is_the_center() -> None:
    wide = Image.new("RGB", (60, 20), BLUE)
    wide.paste(RED, (20, 0, 40, 20))
    red = torch.tensor(RED)[:, None, None] / 255
    for image in (wide, wide.rotate(90, expand=True)):
        assert (square(image, 10) - red).abs().mean() < 0.01  # the filter crosses the crop's edge
    assert square(noise(300, 2), 12).shape == square(noise(5, 9), 12).shape == (3, 12, 12)
