"""A folder as people have them: good pictures and all that goes wrong with files."""

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


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """60 good photos and one or two files of each kind of trouble."""
    folder = tmp_path / "wild"
    folder.mkdir()
    for number in range(GOOD):
        _noise(number).save(folder / f"good-{number:02}.jpg")
    photo = _encoded(_noise(GOOD), "JPEG")
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = Image.Exif()
    odd[0x0112] = 77
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    contents = {
        "zero.jpg": b"",
        "text.jpg": b"This is not a picture.",
        "cut.jpg": photo[: len(photo) // 2],
        "bomb.ppm": b"P6 30000 30000 255\n" + bytes(99),
        "phone.heic": b"\0\0\0\x18ftypheic",
        "notes.txt": b"not to be looked at",
        "film.gif": _encoded(_noise(101), "GIF", save_all=True, append_images=[_noise(102)]),
        "print.jpg": _encoded(_noise(103).convert("CMYK"), "JPEG"),
        "deep.png": _encoded(Image.fromarray(np.full((80, 80), 999, np.uint16)), "PNG"),
        "float.tif": _encoded(_noise(104).convert("F"), "TIFF"),
        "fax.png": _encoded(_noise(105).convert("1"), "PNG"),
        "veil.png": _encoded(_noise(106).convert("RGBA"), "PNG"),
        "turned.jpg": _encoded(_noise(107), "JPEG", exif=turned),
        "odd.jpg": _encoded(_noise(108), "JPEG", exif=odd),
        "wide.jpg": _encoded(_noise(109), "JPEG", icc_profile=swapped),
        "garbage.jpg": _encoded(_noise(110), "JPEG", icc_profile=b"garbage" * 30),
        "plain.jpg": _encoded(_noise(121), "JPEG", icc_profile=srgb),
        "depth.jpg": _encoded(_noise(122), "MPO", save_all=True, append_images=[_noise(123)]),
        "dot.png": _encoded(_noise(111, 1, 1), "PNG"),
        "sliver.png": _encoded(_noise(112, 2000, 80), "PNG"),
        "misnamed.png": _encoded(_noise(113), "JPEG"),
        "two\nlines.jpg": _encoded(_noise(114), "JPEG"),
        "絵画.jpg": _encoded(_noise(115), "JPEG"),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    if os.name == "posix":
        (folder / os.fsdecode(b"\xff.jpg")).write_bytes(_encoded(_noise(116), "JPEG"))
        os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "up").symlink_to(folder, target_is_directory=True)
    return folder
