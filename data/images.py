"""Reading and writing pictures: any common file in, RGB out; every failure is one sentence."""

import errno
import io
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from .files import one_line, write_atomic

#: Suffix -> Pillow's name of the format. No other decoder ever meets a user's file.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".avif": "AVIF",
}  # fmt: skip
MAX_PIXELS = 100_000_000  # decoding this takes about 1 GB; a larger file is more likely a mistake
MAX_BYTES = 2**29  # some decoders take all of the file into memory, twice, before they look at it
MAX_SCANS = 100  # of a progressive JPEG, each as long as the picture; as libtiff has it
MAX_PROFILE = 4 * 2**20  # bytes; those of printing presses take 3 MB
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as the module warnings keeps it


class ImageError(ValueError):
    """Why a file is of no use, in one sentence, and what `kind` of trouble that is."""

    def __init__(self, sentence: str, kind: str = "damaged") -> None:
        super().__init__(one_line(sentence))
        self.kind = kind


def read_image(
    path: Path, at_least: int | None = None, content: bytes | None = None
) -> Image.Image:
    """An RGB picture in sRGB, upright (EXIF), alpha over white, deeper ones scaled to 8 bits, of an
    animation the first frame. What is wrong with EXIF or a color profile is passed over.

    Args:
        path: the file.
        at_least: if given, JPEGs may be decoded at a lower resolution whose shorter side is
            still at least this; much faster for large photos.
        content: that of the file if it is on no disk; ``path`` then only names it.

    Raises:
        ImageError: the file is missing, no picture, truncated or too large; says which.
    """
    with open_image(path, content) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        image.load()
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB in sRGB, upright, alpha over white; as ``read_image`` returns them."""
    picture, turn = _flatten(image), UPRIGHT.get(orientation(image) or 1)
    upright = picture if turn is None else picture.transpose(turn)
    upright.info = {}  # what the file says of itself, its way up for one, is no longer true
    return upright


@contextmanager
def open_image(path: Path, content: bytes | None = None) -> Iterator[ImageFile]:
    """An image file with its header read; all that goes wrong inside becomes an `ImageError`."""
    _hush_pillow()
    try:
        if content is None:
            _check_file(path)
        file = path if content is None else io.BytesIO(content)
        with Image.open(file, formats=list(dict.fromkeys(SUFFIXES.values()))) as image:
            _check_header(image)
            yield image
    except Exception as error:  # Pillow's decoders raise anything: OSError, struct.error, …
        raise _explained(path, error) from None


def orientation(image: Image.Image) -> int | None:
    """What EXIF says about the picture's way up, 1 to 8; None if that makes no sense."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return None
    return value if value in range(1, 9) else None


def to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What takes pictures out of the colors of this one's profile; None if they are sRGB.

    Raises:
        Exception: the profile is damaged, too large, or of another kind of picture.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    if len(profile) > MAX_PROFILE:
        raise ValueError("the color profile is too large")
    base = Image.getmodebase(image.mode)  # "P" is its own
    kind = "CMYK" if image.mode == "CMYK" else "L" if base == "L" else "RGB"
    mode = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}.get(profile[16:20])
    if mode is None or (kind != mode and (kind, mode) != ("L", "RGB")):
        raise ValueError("the color profile is of another kind of picture")
    return _converter(profile, mode)


@lru_cache(maxsize=8)
def _converter(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB")

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.convert(mode), transform)
        assert converted is not None
        return converted

    noise = np.random.default_rng(0).bytes(32 * 32 * Image.getmodebands(mode))
    probe = Image.frombytes(mode, (32, 32), noise)
    change = ImageChops.difference(convert(probe), probe.convert("RGB")).tobytes()
    return convert if max(change) > 2 else None  # sRGB goes by many names


def _hush_pillow() -> None:
    """Pillow's warnings are for programmers. The filter stays, as threads share the filters."""
    if tuple(warnings.filters[:1]) != (QUIET,):
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe might never end
        raise ImageError(f"{path} is no file but a folder, a pipe or a device", "no file")
    if status.st_size == 0:
        raise ImageError(f"{path} is empty", "empty")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{path} has more than {MAX_BYTES // 10**6} MB", "too large")


def _check_header(image: ImageFile) -> None:
    """Refuse what would take too much memory or time, before any of it is decoded."""
    sides = [image.size]
    if isinstance(image, TiffImageFile):  # its tiles are decoded whole, however little is shown
        sides.append((image.tag_v2.get(322, 1), image.tag_v2.get(323, 1)))
    if any(width * height > MAX_PIXELS for width, height in sides):
        raise Image.DecompressionBombError
    if "progressive" in image.info and _count_scans(image) > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} scans")


def _count_scans(jpeg: ImageFile) -> int:
    file = jpeg.fp
    assert file is not None
    file.seek(0)
    return sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(2**20), b""))


def _explained(path: Path, error: Exception) -> ImageError:
    match error:
        case ImageError():
            return error
        case FileNotFoundError() if not path.is_symlink():
            return ImageError(f"there is no picture {path}", "vanished")
        case FileNotFoundError() | OSError(errno=errno.ELOOP):
            return ImageError(f"{path} is a link that leads nowhere", "dangling link")
        case PermissionError():
            return ImageError(f"{path} may not be read; check its permissions", "locked")
        case UnidentifiedImageError():
            text = f"{path} is not a picture (or of a kind that Pillow cannot read)"
            return ImageError(text, "no picture")
        case Image.DecompressionBombError():
            text = f"{path} has more than {MAX_PIXELS // 10**6} million pixels"
            return ImageError(text, "too large")
        case MemoryError():
            return ImageError(f"{path} takes more memory than there is", "too large")
    return ImageError(f"{path} cannot be read: {error}", "damaged")


def _flatten(image: Image.Image) -> Image.Image:
    """In sRGB and over white."""
    try:
        convert = to_srgb(image)
    except Exception:
        convert = None
    flat = _from_deep(image) if image.mode[0] in "IF" else image
    picture = convert(flat) if convert else flat.convert("RGB")
    if not flat.has_transparency_data:
        return picture
    white = Image.new("RGB", flat.size, "white")
    white.paste(picture, mask=flat.convert("RGBA").getchannel("A"))
    return white


def _from_deep(image: Image.Image) -> Image.Image:
    """An "I;16", "I" or "F" picture as "L"; floats are taken as [0,1], what is no number as 0."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0, posinf=1, neginf=0).clip(0, 1) * 255
    else:
        values = values.view(np.uint32) if image.mode == "I" else values
        white = 65535 if values.max() <= 65535 else 2**32 - 1  # 16 bits are often kept in 32
        values = values * np.float32(255 / white)
    return Image.fromarray(values.round().astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3,H,W) float32 in [0,1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """(3,H,W) in [0,1] -> 8-bit RGB picture, rounded to nearest."""
    array = (tensor.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def save_image(picture: Tensor | Image.Image, path: Path) -> None:
    """Write a picture, or (3,H,W) in [0,1], as its suffix says; the file is whole or not there."""
    image = to_image(picture) if isinstance(picture, Tensor) else picture
    write_atomic(path, encode_image(image, path.suffix))


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """What a file of this suffix, like ``.png``, would hold.

    Raises:
        ValueError: the picture has more pixels than the format can hold.
    """
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[suffix.lower()]
    # PNG at level 1: a third of the time for 4 % more bytes; writing outlasts stylizing otherwise.
    image.save(buffer, kind, quality=92, compress_level=1)
    return buffer.getvalue()


def square(image: Image.Image, size: int) -> Tensor:
    """Shorter side resized to ``size``, center crop: (3,size,size). The evaluation's view."""
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
