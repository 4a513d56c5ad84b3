"""A folder of images as found in practice."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

GOOD = 60


def _noise(seed: int, width: int = 80, height: int = 70) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def messy_folder(tmp_path: Path) -> Path:
    """60 good photos, and one or two files of each kind of problem."""
    folder = tmp_path / "messy"
    folder.mkdir()
    for number in range(GOOD):
        _noise(number).save(folder / f"good-{number:02}.jpg")
    photo = _encode(_noise(GOOD), "JPEG")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    contents = {
        "zero.jpg": b"",
        "text.jpg": b"This is not an image.",
        "cut\n.jpg": photo[: len(photo) // 2],
        "bomb.ppm": b"P6 30000 30000 255\n" + bytes(99),
        "phone.heic": b"\0\0\0\x18ftypheic",
        "notes.txt": b"not an image",
        "film.gif": _encode(_noise(101), "GIF", save_all=True, append_images=[_noise(102)]),
        "print.jpg": _encode(_noise(103).convert("CMYK"), "JPEG"),
        "deep.png": _encode(Image.fromarray(np.full((80, 80), 999, np.uint16)), "PNG"),
        "float.tif": _encode(_noise(104).convert("F"), "TIFF"),
        "end.jpg": _encode(_noise(117), "JPEG")[:-4],
        "fax.png": _encode(_noise(105).convert("1"), "PNG"),
        "alpha.png": _encode(_noise(106).convert("RGBA"), "PNG"),
        "rotated.jpg": _encode(_noise(107), "JPEG", exif=_exif(6)),
        "exif77.jpg": _encode(_noise(108), "JPEG", exif=_exif(77)),
        "wide.jpg": _encode(_noise(109), "JPEG", icc_profile=swapped),
        "garbage.jpg": _encode(_noise(110), "JPEG", icc_profile=b"garbage" * 30),
        "srgb.jpg": _encode(_noise(121), "JPEG", icc_profile=srgb),
        "depth.jpg": _encode(_noise(122), "MPO", save_all=True, append_images=[_noise(123)]),
        "dot.png": _encode(_noise(111, 1, 1), "PNG"),
        "narrow.png": _encode(_noise(112, 2000, 80), "PNG"),
        "misnamed.png": _encode(_noise(113), "JPEG"),
        "two\nlines.jpg": _encode(_noise(114), "JPEG"),
        "絵画.jpg": _encode(_noise(115), "JPEG"),
        os.fsdecode(b"\xff.jpg"): _encode(_noise(116), "JPEG"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "up").symlink_to(folder, target_is_directory=True)
    return folder
