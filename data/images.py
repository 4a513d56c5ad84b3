"""Reading and writing pictures: any common file in, RGB out; every failure is one sentence."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .files import write_atomic

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"}
MAX_PIXELS = 100_000_000  # decoding this takes about 1 GB; a larger file is more likely a mistake


def read_image(path: Path, at_least: int | None = None) -> Image.Image:
    """An RGB picture, upright (EXIF), alpha over white, 16-bit scaled to 8.

    Args:
        path: the file.
        at_least: if given, JPEGs may be decoded at a lower resolution whose shorter side is
            still at least this; much faster for large photos.

    Raises:
        ValueError: the file is missing, no picture, truncated or too large; says which.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"there is no picture {path}") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is not a picture (or of a kind that Pillow cannot read)"
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # Pillow's decoders raise anything: OSError, struct.error, …
        raise ValueError(f"{path} cannot be read: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_gray(np.asarray(image).astype(np.float32) / 65535)
    if image.mode == "F":
        return _from_gray(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_gray(values: np.ndarray) -> Image.Image:
    """(H,W) in [0,1] to an RGB picture."""
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3,H,W) float32 in [0,1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """(3,H,W) in [0,1] -> 8-bit RGB picture, rounded to nearest."""
    array = (tensor.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def save_image(tensor: Tensor, path: Path) -> None:
    """Write (3,H,W) in [0,1] in the format of the suffix; the file is whole or not there."""
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    # PNG at level 1: a third of the time for 4 % more bytes; writing outlasts stylizing otherwise.
    to_image(tensor).save(buffer, kind, quality=92, compress_level=1)
    write_atomic(path, buffer.getvalue())


def square(image: Image.Image, size: int) -> Tensor:
    """Shorter side resized to ``size``, centre crop: (3,size,size). The evaluation's view."""
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
