"""Image input and output. Any failure to read an image is raised as an ImageError."""

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
from einops import rearrange
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from .files import one_line, write_atomic
from .jpeg import END_OF_JPEG, complete_jpeg

#: Suffix -> Pillow's name of the format. Only these decoders are ever given a user's file.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG",
    ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".ppm": "PPM",
    ".pnm": "PPM", ".avif": "AVIF",
}  # fmt: skip
MAX_PIXELS = 100_000_000  # takes about 1 GB to decode
MAX_BYTES = 2**29  # some decoders hold the whole file in memory, twice
MAX_SCANS = 100  # of a progressive JPEG, each decoded at full size; the limit of libtiff
MAX_PROFILE = 4 * 2**20  # bytes; profiles of printing presses take 3 MB
MAX_SIDES = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 65_536}  # pixels, of outputs
MARK = "Underdrawing"  # EXIF entry Software of every image written
OVERSHOOT = 0.1  # of float values beyond [0,1], as sharp resampling filters leave
OLD_JPEG = 6  # compression of a TIFF, always of YCbCr
PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters


Tag = ExifTags.Base


class ImageError(ValueError):
    """An unreadable image: a one-line message, and the kind of problem for ``check-data``."""

    def __init__(self, message: str, kind: str = "damaged") -> None:
        super().__init__(one_line(message))
        self.kind = kind


class EncodingError(ValueError):
    """Pixel values whose meaning is unclear, or which Pillow is known to decode wrongly."""


def read_image(
    path: Path, at_least: int | None = None, content: bytes | None = None
) -> Image.Image:
    """Read an image as 8-bit sRGB, rotated according to EXIF, alpha composited over white.

    Deeper images are scaled to 8 bits; of an animation, the first frame is read. Invalid EXIF data
    and color profiles are ignored. A JPEG whose end is missing is completed if that costs at most
    its last row of blocks: ``info`` then has the key ``incomplete``, and unless ``at_least`` is
    given, there is a warning.

    Args:
        path: the file.
        at_least: allow JPEGs to be decoded at a lower resolution whose shorter side is still at
            least this, which is much faster for large photos.
        content: the file's content, if it is not on disk; ``path`` is then used in messages only.

    Raises:
        ImageError: the file is missing, not an image, damaged, too large or of an unknown encoding.
    """
    with open_image(path, content) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        try:
            image.load()
        except OSError:
            content = path.read_bytes() if content is None else content
            if image.format != "JPEG" or content.endswith(END_OF_JPEG):
                raise
            completed = read_image(path, at_least, complete_jpeg(content))
        else:
            return to_rgb(image)
    if at_least is None:  # folders are read at a reduced size, and `check-data` reports it
        warnings.warn(
            f"{one_line(str(path))} lacks its end; its last rows may be gray", stacklevel=2
        )
    completed.info["incomplete"] = True
    return completed


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to what ``read_image`` returns; the image itself is not changed."""
    rgb = _flatten(image)
    rgb.info = {}  # profile, transparency and EXIF no longer apply
    rgb.getexif()[Tag.Orientation] = orientation(image) or 1
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


@contextmanager
def open_image(path: Path, content: bytes | None = None) -> Iterator[ImageFile]:
    """Open an image file and check its header; errors raised inside become ImageErrors."""
    if warnings.filters[:1] != [PILLOW_FILTER]:  # permanent, as catch_warnings is not thread-safe
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        if content is None:
            _check_file(path)
        file = path if content is None else io.BytesIO(content)
        with Image.open(file, formats=list(dict.fromkeys(SUFFIXES.values()))) as image:
            _check_header(image)
            yield image
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, …
        raise _as_image_error(path, error) from None


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation, 1 to 8; 1 without EXIF, None if it is invalid."""
    try:
        value = image.getexif().get(Tag.Orientation, 1)
    except Exception:  # damaged EXIF data
        return None
    return value if value in range(1, 9) else None


def to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """Return the conversion from the image's color profile to sRGB; None if it is sRGB already.

    Raises:
        Exception: the profile is damaged, too large, or does not fit the image's mode.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    if len(profile) > MAX_PROFILE:
        raise ValueError(f"the color profile has more than {MAX_PROFILE} bytes")
    base = Image.getmodebase(image.mode)  # "P" for palettes
    given = "CMYK" if image.mode == "CMYK" else "L" if base == "L" else "RGB"
    mode = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}.get(profile[16:20])
    if mode is None or (given, mode) not in {(mode, mode), ("L", "RGB")}:
        raise ValueError(f"the color profile does not fit a {given} image")
    return _profile_to_srgb(profile, mode)


@lru_cache(maxsize=8)
def _profile_to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB")

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.convert(mode), transform)
        assert converted is not None
        return converted

    # sRGB profiles have many names, so compare the colors of a noise image.
    noise = np.random.default_rng(0).bytes(32 * 32 * Image.getmodebands(mode))
    probe = Image.frombytes(mode, (32, 32), noise)
    change = ImageChops.difference(convert(probe), probe.convert("RGB")).tobytes()
    return convert if max(change) > 2 else None


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
        raise ImageError(f"{path} is not a regular file", "not a file")
    if status.st_size == 0:
        raise ImageError(f"{path} is empty", "empty")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{path} has more than {MAX_BYTES // 10**6} MB", "too large")


def _check_header(image: ImageFile) -> None:
    """Reject images that would take too much memory or time to decode."""
    sizes = [image.size]
    if isinstance(image, TiffImageFile):  # whole tiles are decoded, however small the image
        sizes.append((image.tag_v2.get(Tag.TileWidth, 1), image.tag_v2.get(Tag.TileLength, 1)))
    if any(width * height > MAX_PIXELS for width, height in sizes):
        raise Image.DecompressionBombError
    if "progressive" in image.info:
        assert image.fp is not None
        image.fp.seek(0)
        blocks = iter(lambda: image.fp.read(2**20), b"")  # type: ignore[union-attr]
        if sum(block.count(b"\xff\xda") for block in blocks) > MAX_SCANS:
            raise ValueError(f"it has more than {MAX_SCANS} scans")


def _as_image_error(path: Path, error: Exception) -> ImageError:
    match error:
        case ImageError():
            return error
        case FileNotFoundError() if not path.is_symlink():
            return ImageError(f"there is no image {path}", "missing")
        case FileNotFoundError() | OSError(errno=errno.ELOOP):
            return ImageError(f"{path} is a dangling symbolic link", "dangling link")
        case PermissionError():
            return ImageError(f"no permission to read {path}", "no permission")
        case UnidentifiedImageError():
            message = f"{path} is not an image, or not in a supported format"
            return ImageError(message, "not an image")
        case EncodingError():
            message = f"{path}: {error}; save it as PNG or TIFF with 8 bits per channel"
            return ImageError(message, "unsupported encoding")
        case Image.DecompressionBombError():
            message = f"{path} has more than {MAX_PIXELS // 10**6} million pixels"
            return ImageError(message, "too large")
        case MemoryError():
            return ImageError(f"not enough memory to decode {path}", "too large")
    return ImageError(f"{path} cannot be read: {error}", "damaged")


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to sRGB over white; always a new image."""
    _check_encoding(image)
    try:
        convert = to_srgb(image)
    except Exception:  # an invalid profile
        convert = None
    shallow = _to_8_bit(image) if image.mode[0] in "IF" else image
    rgb = convert(shallow) if convert else shallow.convert("RGB")
    if not shallow.has_transparency_data:
        return rgb
    white = Image.new("RGB", shallow.size, "white")
    white.paste(rgb, mask=shallow.convert("RGBA").getchannel("A"))
    return white


def _check_encoding(image: Image.Image) -> None:
    """Reject what Pillow 12.3 decodes wrongly without an error.

    Raises:
        EncodingError: such an encoding.
    """
    key = image.info.get("transparency")
    if key is not None and (image.mode[0] == "I" or (isinstance(key, tuple) and max(key) > 255)):
        raise EncodingError("a transparent color of 16 bits is not supported")
    if not isinstance(image, TiffImageFile):
        return
    tags = image.tag_v2
    compression, photometric = tags.get(Tag.Compression, 1), tags.get(Tag.PhotometricInterpretation)
    bits, planar = max(tags.get(Tag.BitsPerSample, (1,))), tags.get(Tag.PlanarConfiguration) == 2
    dots = tags.get(Tag.DotRange, (0, 1))
    wrong = {
        "without a photometric interpretation": photometric is None and compression != OLD_JPEG,
        "with signed values": 2 in tags.get(Tag.SampleFormat, ()) and bits < 32,
        "with separate planes of 16 bits": planar and bits > 8 and compression == 1,
        "with separate planes of YCbCr": planar and photometric == 6,
        "with compressed big-endian values of 32 bits": (
            bits == 32 and compression != 1 and tags.prefix == b"MM"
        ),
        "with inverted inks": dots[0] > dots[1],
        "with a color map of 8-bit values": 0 < max(tags.get(Tag.ColorMap, (0,))) < 256,
    }
    for what, found in wrong.items():
        if found:
            raise EncodingError(f"a TIFF {what} is not supported")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Convert modes "I;16", "I" and "F" to "L".

    Raises:
        EncodingError: values of which it is unclear what is white.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    values = np.asarray(image)
    if image.mode == "I" and tags and tags.get(Tag.SampleFormat, (1,)) == (1,):
        values = values.view(np.uint32)
    low, high = values.min(), values.max()
    white = 4095 if tags.get(Tag.BitsPerSample) == (12,) else 65535
    if image.mode == "F":
        white = 1
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # also rejects NaN
            raise EncodingError(f"float values must lie in [0,1], but are {low:g} to {high:g}")
    elif image.mode == "I":  # 32-bit integers often hold 16-bit values
        white = 2**32 - 1 if high > white and values.dtype == np.uint32 else white
        is_8_bit = 0 < high < 256 and image.format != "PPM"  # whose range is known
        if low < 0 or high > white or is_8_bit:
            message = f"32-bit integers must be unsigned or 16-bit values, but are {low} to {high}"
            raise EncodingError(message)
    shallow = (values.clip(0, white) * np.float32(255 / white)).round().astype(np.uint8)
    white_is_zero = tags.get(Tag.PhotometricInterpretation) == 0  # inverted by Pillow up to 8 bits
    return Image.fromarray(255 - shallow if white_is_zero else shallow)


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to (3,H,W) float32 in [0,1]."""
    return rearrange(torch.from_numpy(np.array(image)), "h w c -> c h w").float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """Convert (3,H,W) in [0,1] to an 8-bit RGB image; values are clamped and rounded."""
    pixels = (tensor.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(rearrange(pixels, "c h w -> h w c").cpu().numpy())


def save_image(image: Tensor | Image.Image, path: Path) -> None:
    """Write an image, or a tensor (3,H,W) in [0,1], atomically in the format of the suffix."""
    image = to_image(image) if isinstance(image, Tensor) else image
    write_atomic(path, encode_image(image, path.suffix))


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """Encode an image in the format of a file suffix such as ``.png``, with the EXIF ``MARK``.

    Raises:
        ValueError: the image is larger than the format allows.
    """
    check_side(image.size, suffix)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[Tag.Software] = MARK
    # PNG compression level 1 takes a third of the default's time for 4 % more bytes.
    image.save(buffer, SUFFIXES[suffix.lower()], quality=92, compress_level=1, exif=exif)
    return buffer.getvalue()


def check_side(size: tuple[int, int], suffix: str) -> None:
    """Raise a ValueError if images of this width and height cannot be stored in a format."""
    limit = MAX_SIDES.get(name := SUFFIXES[suffix.lower()], max(size))
    if max(size) > limit:
        raise ValueError(
            f"{name} images have at most {limit} pixels per side, not {max(size)}: "
            "choose another format"
        )


def is_own_image(path: Path) -> bool:
    """Return whether an image file bears the ``MARK`` of this package."""
    try:
        with open_image(path) as image:
            return image.getexif().get(Tag.Software) == MARK
    except ImageError:
        return False


def square(image: Image.Image, size: int) -> Tensor:
    """Resize the shorter side to ``size`` and crop the center: (3,size,size), as evaluated."""
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
