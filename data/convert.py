"""Conversion of images of any type to tensors, and of results back to the type given."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .images import read_image, to_image, to_rgb, to_tensor

COARSE = 4  # pixels per side of a map that may be stretched
DTYPES = {"uint8", "float16", "bfloat16", "float32", "float64"}
#: A path, a PIL image, an array (H,W,3) or (B,H,W,3), or a tensor (3,H,W) or (B,3,H,W); arrays and
#: tensors of uint8, or of floats in [0,1].
ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor


def to_batch(image: ImageLike) -> Tensor:
    """Convert to (B,3,H,W) float32 in [0,1]; B = 1 for a single image, tensors keep their device.

    Raises:
        ValueError: wrong shape or number type, or values outside [0,1].
    """
    if isinstance(image, str | Path):
        return to_tensor(read_image(Path(image)))[None]
    if isinstance(image, Image.Image):
        return to_tensor(to_rgb(image))[None]
    x = _to_unit(image)
    if isinstance(image, np.ndarray):
        if x.dim() not in (3, 4) or x.shape[-1] != 3:
            raise ValueError(f"an image array is (H,W,3) or (B,H,W,3), not {image.shape}")
        x = rearrange(x, "... h w c -> ... c h w")
    elif x.dim() not in (3, 4) or x.shape[-3] != 3:
        raise ValueError(f"an image tensor is (3,H,W) or (B,3,H,W), not {tuple(x.shape)}")
    return x if x.dim() == 4 else x[None]


def as_given(batch: Tensor, given: ImageLike) -> Image.Image | NDArray[Any] | Tensor:
    """Convert a result (B,3,H,W) in [0,1] to the type of ``given``; to a PIL image for a path.

    Arrays and tensors keep their number of dimensions and their dtype, tensors also their device.
    """
    if not isinstance(given, np.ndarray | Tensor):
        return to_image(batch[0])
    x = batch if given.ndim == 4 else batch[0]
    if given.dtype in (np.uint8, torch.uint8):
        x = (x * 255).round()
    if isinstance(given, Tensor):  # first to its device, as MPS has no float64
        return x.to(given.device).to(given)
    return rearrange(x, "... c h w -> ... h w c").cpu().numpy().astype(given.dtype)


def to_map(values: ImageLike, size: tuple[int, int]) -> Tensor:
    """Convert to a map (B,1,H,W) float32 in [0,1], resized to ``size``; see `check_aspect`.

    Args:
        values: a path or PIL image, converted to gray (black 0, white 1); an array or tensor (H,W),
            (B,H,W) or (B,1,H,W) of uint8 or of floats in [0,1].
        size: (H,W).

    Raises:
        ValueError: wrong shape, aspect ratio or number type, or values outside [0,1].
    """
    if isinstance(values, str | Path):
        values = read_image(Path(values))
    if isinstance(values, Image.Image):
        values = np.array(to_rgb(values).convert("L"))
    x = _to_unit(values)
    x = x[None, None] if x.dim() == 2 else x[:, None] if x.dim() == 3 else x
    if x.dim() != 4 or x.shape[1] != 1:
        raise ValueError(f"a map is (H,W), (B,H,W) or (B,1,H,W), not {tuple(values.shape)}")
    check_aspect(x.shape[-2], x.shape[-1], size)
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", antialias=True)


def check_aspect(h: int, w: int, size: tuple[int, int]) -> None:
    """Check that a map or mask of h x w pixels fits a photo of ``size`` (H,W) without distortion.

    Sides may be rounded to whole pixels, and the aspect ratio may differ by 2 %. At most 4 x 4
    pixels are a coarse grid without an aspect ratio of its own, which fits every photo.

    Raises:
        ValueError: the aspect ratios differ.
    """
    height, width = size
    excess = abs(w * height - h * width)  # 0 for equal aspect ratios
    if max(h, w) > COARSE and excess > max(0.02 * w * height, (width + height) / 2):
        raise ValueError(
            f"a map or mask of {w}x{h} pixels does not fit a photo of {width}x{height}: its aspect "
            "ratio must be that of the photo (within 2 %); crop or pad it"
        )


def _to_unit(values: NDArray[Any] | Tensor) -> Tensor:
    """Convert uint8 or floats to a tensor of float32 in [0,1]."""
    if not isinstance(values, np.ndarray | Tensor):
        kind = type(values).__name__
        raise ValueError(f"an image or map is a path, PIL image, array or tensor, not {kind}")
    if str(values.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"values must be uint8 or floats in [0,1], not {values.dtype}")
    x = torch.from_numpy(values.copy()) if isinstance(values, np.ndarray) else values
    if not x.numel():
        raise ValueError(f"an image or map of shape {tuple(x.shape)} has no pixels")
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not (x.min() >= 0 and x.max() <= 1):  # also rejects NaN
        raise ValueError("float values must lie in [0,1], but some are outside")
    return x.float()
