import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms
from underdrawing.data import images
from underdrawing.data.images import (
    ImageError,
    read_image,
    save_image,
    square,
    to_image,
    to_tensor,
)

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)
GRID = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 13  # six colors, no symmetry
#: EXIF orientation -> what turns the stored pixels upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def pixels(path: Path) -> list[tuple[int, ...]]:
    picture = read_image(path)
    assert picture.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_picture_upright(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    Image.fromarray(GRID).save(path, exif=exif(orientation))
    np.testing.assert_array_equal(np.asarray(read_image(path)), UPRIGHT[orientation](GRID))


def test_a_photo_on_its_side_is_turned_at_every_decoding_size(tmp_path: Path) -> None:
    path = tmp_path / "camera.jpg"
    noise(640, 480).save(path, exif=exif(6))
    assert read_image(path).size == (480, 640)
    assert read_image(path, at_least=100).size == (120, 160)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_8(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)).save(path)
    assert pixels(path) == [(gray,) * 3 for gray in (0, 1, 128, 255)]


def test_float_grey_is_taken_as_zero_to_one(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[-1.0, 0.0, 1.0, 7.0]], np.float32)).save(path)
    assert pixels(path) == [(gray,) * 3 for gray in (0, 0, 255, 255)]


def test_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "bits.png"
    Image.fromarray(np.array([[True, False]])).convert("1").save(path)
    assert pixels(path) == [WHITE, (0, 0, 0)]


def test_grey(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    Image.fromarray(np.array([[0, 77, 255]], np.uint8)).save(path)
    assert pixels(path) == [(gray,) * 3 for gray in (0, 77, 255)]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"print.{suffix}"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    np.testing.assert_allclose(pixels(path), [RED] * 256, atol=3)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_palette_color_is_white(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"palette.{suffix}"
    picture = Image.new("P", (2, 1))
    picture.putpalette([*BLUE, *RED])
    picture.putpixel((1, 0), 1)
    picture.save(path, transparency=0)
    assert pixels(path) == [WHITE, RED]


def test_a_transparent_color_of_an_rgb_png_is_white(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[BLUE, RED]], np.uint8)).save(path, transparency=BLUE)
    assert pixels(path) == [WHITE, RED]


def test_rgba_lies_over_white(tmp_path: Path) -> None:
    path = tmp_path / "veil.png"
    Image.fromarray(np.array([[(*RED, 0), (*RED, 255), (*RED, 51)]], np.uint8)).save(path)
    assert pixels(path) == [WHITE, RED, (255, 204, 204)]


def test_grey_with_alpha_lies_over_white(tmp_path: Path) -> None:
    path = tmp_path / "veil.png"
    Image.fromarray(np.array([[(0, 0), (0, 255), (0, 51)]], np.uint8)).save(path)
    assert pixels(path) == [WHITE, (0, 0, 0), (204, 204, 204)]


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, BLUE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixels(path) == [RED] * 4


BROKEN: dict[str, bytes] = {
    "text.jpg": b"This is not a picture.",
    "empty.jpg": b"",
    "half.jpg": encode(noise(64, 64), "JPEG")[:1500],
    "start.jpg": encode(noise(64, 64), "JPEG")[:100],
    "half.png": encode(noise(64, 64), "PNG")[:6000],
    "start.png": encode(noise(64, 64), "PNG")[:30],
    "half.gif": encode(noise(64, 64), "GIF")[:2000],
    "half.webp": encode(noise(64, 64), "WEBP")[:1000],
    "bomb.png": png_header(40_000, 40_000),  # over Pillow's own limit
    "large.png": png_header(10_001, 10_000),  # only over ours
}


@pytest.mark.parametrize("at_least", [None, 32])
@pytest.mark.parametrize("name", [*BROKEN, "missing.jpg", "folder.jpg"])
def test_what_cannot_be_read_is_named_in_one_sentence(
    name: str, at_least: int | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name in BROKEN:
        path.write_bytes(BROKEN[name])
    elif name == "folder.jpg":
        path.mkdir()
    with pytest.raises(ValueError, match=name) as caught:
        read_image(path, at_least)
    assert type(caught.value) is ImageError
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_avif_is_named(tmp_path: Path) -> None:
    path = tmp_path / "damaged.avif"
    content = encode(noise(64, 64), "AVIF")
    path.write_bytes(content.replace(b"iloc", b"free"))
    with pytest.raises(ValueError, match=r"damaged\.avif"):
        read_image(path)


DAMAGED_TAG = struct.pack("<HHI4s", 0x0154, 2, 4, b"abc")  # text where a number belongs
TAGS = {
    "a damaged tag": (DAMAGED_TAG, 8),
    "an offset beyond the end": (b"", 2**31),
    "a tag beyond the end": (struct.pack("<HHII", 0x0112, 3, 10**6, 10**6), 8),
}


@pytest.mark.parametrize("trouble", TAGS)
def test_a_photo_with_damaged_exif_is_used(trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    tag, start = TAGS[trouble]
    tags = struct.pack("<2sHIH", b"II", 42, start, 1) + tag + bytes(4)
    Image.fromarray(GRID).save(path, exif=b"Exif\0\0" + tags)
    np.testing.assert_array_equal(np.asarray(read_image(path)), GRID)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_passed_over(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    Image.fromarray(GRID).save(path, exif=exif(orientation))
    np.testing.assert_array_equal(np.asarray(read_image(path)), GRID)


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
#: Its red is sRGB's green, and the other way round.
SWAPPED = SRGB.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
GAMMA_1 = b"curv" + bytes(4) + struct.pack(">IH", 1, 256)
LINEAR_GREY = icc(b"GRAY", b"XYZ ", {b"kTRC": GAMMA_1})
RAMP = bytes(range(256))
#: A press whose inks are the same middle gray; all of them together are black.
GREY_INKS = icc(
    b"CMYK", b"Lab ",
    {
        b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *np.eye(3, dtype=int).ravel() << 16)
        + RAMP * 4
        + b"\xff\x80\x80" + b"\x80\x80\x80" * 14 + b"\x00\x80\x80"
        + RAMP * 3
    },
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
def test_a_color_profile_is_converted_to_srgb(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wide.{suffix}"
    Image.new("RGB", (16, 16), RED).save(path, icc_profile=SWAPPED, quality=95)
    np.testing.assert_allclose(pixels(path), [(0, 255, 0)] * 256, atol=5)


def test_alpha_is_kept_when_a_profile_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "veil.png"
    veil = Image.fromarray(np.array([[(*RED, 0), (*RED, 255), (*RED, 51)]], np.uint8))
    for picture in (veil, veil.quantize(3)):
        picture.save(path, icc_profile=SWAPPED)
        np.testing.assert_allclose(pixels(path), [WHITE, (0, 255, 0), (204, 255, 204)], atol=1)


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    noise(64, 64).save(path, icc_profile=SRGB)
    assert read_image(path).tobytes() == noise(64, 64).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_profile(dtype: type[np.integer], tmp_path: Path) -> None:
    path = tmp_path / "linear.png"
    gray = np.array([[0, 55, 255]], dtype) * dtype(257 if dtype is np.uint16 else 1)
    Image.fromarray(gray).save(path, icc_profile=LINEAR_GREY)
    np.testing.assert_allclose(pixels(path), [(0,) * 3, (128,) * 3, WHITE], atol=1)


def test_a_grey_picture_with_a_color_display_s_profile(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    Image.fromarray(np.array([[0, 77, 255]], np.uint8)).save(path, icc_profile=SWAPPED)
    assert pixels(path) == [(gray,) * 3 for gray in (0, 77, 255)]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_press_profile(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"print.{suffix}"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, icc_profile=GREY_INKS)
    np.testing.assert_allclose(pixels(path), [(119,) * 3] * 256, atol=3)


ODD_PROFILES = {
    "garbage": b"garbage" * 40,
    "half": SWAPPED[:300],
    "of ink": GREY_INKS,
    "of gray": LINEAR_GREY,
    "huge": SWAPPED + bytes(5 * 2**20),
}


@pytest.mark.parametrize("name", ODD_PROFILES)
def test_an_odd_profile_is_passed_over(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.tif"
    Image.fromarray(GRID).save(path, icc_profile=ODD_PROFILES[name])
    np.testing.assert_array_equal(np.asarray(read_image(path)), GRID)


def test_grey_of_32_bits_is_of_32_or_of_16(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    for white in (2**16 - 1, 2**32 - 1):
        values = (np.array([[0, 0.2, 1]]) * white).astype(np.uint32).view(np.int32)
        Image.fromarray(values).save(path)
        assert pixels(path) == [(gray,) * 3 for gray in (0, 51, 255)]


@pytest.mark.filterwarnings("error")
def test_floats_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 1e30]], np.float32)).save(path)
    assert pixels(path) == [(gray,) * 3 for gray in (0, 255, 0, 255)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_content_counts_not_the_suffix(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "misnamed.webp"
    path.write_bytes(encode(Image.new("RGB", (16, 16), BLUE), kind))
    np.testing.assert_allclose(pixels(path), [BLUE] * 256, atol=2)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "JPEG2000", "PDF"])
def test_formats_that_are_not_listed_are_not_decoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(encode(noise(32, 32), kind))
    with pytest.raises(ImageError, match="is not a picture") as caught:
        read_image(path)
    assert caught.value.kind == "no picture"


@pytest.mark.timeout(10)
@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are files on POSIX only")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.jpg", tmp_path / "zeros.jpg"):
        with pytest.raises(ImageError, match="is no file"):
            read_image(path)


@pytest.mark.parametrize("target", ["nowhere.jpg", "link.jpg"])
def test_a_link_that_leads_nowhere(target: str, tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / target)
    with pytest.raises(ImageError, match=r"link\.jpg is a link that leads nowhere"):
        read_image(tmp_path / "link.jpg")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    noise(2, 2).save(tmp_path / "secret.png")
    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(ImageError, match=r"secret\.png may not be read; check its permissions"):
        read_image(tmp_path / "secret.png")


NAMES = [b"two\nlines.png", b"bell\x07.png", b"\xff\xfe.png", "絵画 λ.png".encode()]


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_bytes_is_read_and_said_on_one_line(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    noise(3, 2).save(path)
    assert read_image(path).size == (3, 2)
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_an_enormous_file_is_not_taken_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, 50 * 2**30)
    with pytest.raises(ImageError, match=r"sparse\.webp has more than 536 MB"):
        read_image(path)


def tiled(width: int, height: int) -> bytes:
    """A TIFF of one pixel, in a deflated tile of any size."""
    body = zlib.compress(bytes(width))
    tags = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1), (322, width),
            (323, height), (324, 134), (325, len(body))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + body


def test_the_tiles_of_a_small_tiff_may_not_be_large(tmp_path: Path) -> None:
    path = tmp_path / "tile.tif"
    path.write_bytes(tiled(32_768, 32_768))
    with pytest.raises(ImageError, match=r"tile\.tif has more than 100 million pixels"):
        read_image(path)
    path.write_bytes(tiled(256, 16))
    with pytest.raises(ImageError, match="cannot be read"):  # it is cut short, no more
        read_image(path)


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    buffer = io.BytesIO()
    noise(32, 32).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    path.write_bytes(content)
    assert read_image(path).size == (32, 32)
    path.write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 120)
    with pytest.raises(ImageError, match="more than 100 scans"):
        read_image(path)


def test_pillow_warns_nobody(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(9_500, 9_500))  # over Pillow's limit, not ours
    noise(4, 4).save(tmp_path / "cut.tif")
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[:-40])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("large.png", "cut.tif"):
            with pytest.raises(ImageError):
                read_image(tmp_path / name)
    assert not caught


def test_the_largest_picture_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    noise(20, 10).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    assert read_image(path).size == (20, 10)
    monkeypatch.setattr(images, "MAX_PIXELS", 199)
    with pytest.raises(ValueError, match=r"picture\.png has more than .* pixels"):
        read_image(path)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(8, 700), st.integers(8, 700), st.integers(1, 300))
def test_a_draft_keeps_the_shorter_side(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, at_least: int
) -> None:
    path = tmp_path_factory.mktemp("draft") / "photo.jpg"
    Image.new("RGB", (width, height)).save(path)
    size = read_image(path, at_least).size
    assert min(size) >= min(at_least, width, height)
    assert (
        min(size) < 2 * at_least or min(width, height) // at_least >= 16 or size == (width, height)
    )
    assert size[0] / size[1] == pytest.approx(width / height, rel=1 / min(size))


def test_a_draft_of_a_large_photo_is_small(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (1600, 1200)).save(path)
    assert read_image(path).size == (1600, 1200)
    assert read_image(path, at_least=256).size == (400, 300)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_bytes_survive_the_way_to_tensor_and_back(array: np.ndarray) -> None:
    tensor = to_tensor(Image.fromarray(array))
    assert tensor.shape == (3, *array.shape[:2])
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(np.asarray(to_image(tensor)), array)
    assert torch.equal(to_tensor(to_image(tensor)), tensor)


def test_all_256_values_survive() -> None:
    array = np.stack([np.roll(np.arange(256, dtype=np.uint8), k) for k in (0, 85, 170)], axis=-1)
    np.testing.assert_array_equal(
        np.asarray(to_image(to_tensor(Image.fromarray(array[None])))), array[None]
    )


def test_a_tensor_is_rounded_to_nearest_and_clamped() -> None:
    tensor = torch.tensor([-3.0, 0.4, 0.6, 254.4, 254.6, 300.0]).div(255).expand(3, 1, 6)
    grays = np.asarray(to_image(tensor))[0, :, 0]
    assert grays.tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp"])
def test_a_saved_picture_reads_back_exactly(suffix: str, tmp_path: Path) -> None:
    tensor, path = to_tensor(noise(9, 7)), tmp_path / "new" / "folder" / f"out{suffix}"
    save_image(tensor, path)
    assert torch.equal(to_tensor(read_image(path)), tensor)
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_jpeg_is_near(tmp_path: Path) -> None:
    tensor = torch.linspace(0, 1, 32).expand(3, 32, 32)
    save_image(tensor, tmp_path / "out.jpg")
    assert (to_tensor(read_image(tmp_path / "out.jpg")) - tensor).abs().max() < 0.02


@pytest.mark.parametrize("size", [(48, 16), (16, 48), (16, 16), (5, 3), (300, 2)])
def test_square_has_the_size_asked_for(size: tuple[int, int]) -> None:
    assert square(noise(*size), 12).shape == (3, 12, 12)


def test_square_is_the_centre() -> None:
    wide = Image.new("RGB", (60, 20), BLUE)
    wide.paste(RED, (20, 0, 40, 20))
    red = torch.tensor(RED)[:, None, None] / 255
    for picture in (wide, wide.rotate(90, expand=True)):
        assert (square(picture, 10) - red).abs().mean() < 0.01  # the filter sees past the edge


def test_square_of_a_square_is_the_picture() -> None:
    assert torch.equal(square(noise(16, 16), 16), to_tensor(noise(16, 16)))
