"""Pictures of any kind to tensors, and results back to the kind that was given."""

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

#: A path, a PIL image, an array (H,W,3) or (B,H,W,3) of uint8 or of floats in [0,1], or a tensor
#: (3,H,W) or (B,3,H,W) of floats in [0,1].
ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor


def to_batch(picture: ImageLike) -> Tensor:
    """A picture as (B,3,H,W) float32 in [0,1], where it lies; B is 1 for all that is no batch.

    Raises:
        ValueError: another shape, another type of numbers, or numbers outside [0,1].
    """
    if isinstance(picture, str | Path):
        return to_tensor(read_image(Path(picture)))[None]
    if isinstance(picture, Image.Image):
        return to_tensor(to_rgb(picture))[None]
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (3, 4) or picture.shape[-1] != 3:
            raise ValueError(
                f"an array of shape {picture.shape} is no picture: (H,W,3) or (B,H,W,3)"
            )
        x = rearrange(_to_unit(torch.from_numpy(picture.copy())), "... h w c -> ... c h w")
    else:
        if picture.dim() not in (3, 4) or picture.shape[-3] != 3:
            raise ValueError(
                f"a tensor of shape {tuple(picture.shape)} is no picture: (3,H,W) or (B,3,H,W)"
            )
        x = _to_unit(picture)
    return x if x.dim() == 4 else x[None]


def as_given(batch: Tensor, given: ImageLike) -> Image.Image | NDArray[Any] | Tensor:
    """A result (B,3,H,W) in [0,1] as the kind of picture that was given; PIL for a path.

    Arrays and tensors keep their number of dimensions and type of numbers, tensors their device.
    """
    if isinstance(given, Tensor):
        return (batch if given.dim() == 4 else batch[0]).to(given)
    if not isinstance(given, np.ndarray):
        return to_image(batch[0])
    x = rearrange(batch if given.ndim == 4 else batch[0], "... c h w -> ... h w c").cpu()
    if given.dtype == np.uint8:
        x = (x * 255).round()
    return x.numpy().astype(given.dtype)


def to_map(values: ImageLike, size: tuple[int, int]) -> Tensor:
    """One number in [0,1] per pixel, (B,1,H,W) float32 of the size given.

    Args:
        values: a path or PIL image, of which the gray counts (black 0, white 1); an array (H,W) or
            (B,H,W) or a tensor (H,W), (1,H,W) or (B,1,H,W) of uint8 or of floats in [0,1].
        size: height and width, to which it is stretched.

    Raises:
        ValueError: another shape, another type of numbers, or numbers outside [0,1].
    """
    if isinstance(values, str | Path):
        values = read_image(Path(values))
    if isinstance(values, Image.Image):
        values = np.array(to_rgb(values).convert("L"))
    x = torch.from_numpy(values.copy()) if isinstance(values, np.ndarray) else values
    if x.dim() == 2:
        x = x[None, None]
    elif x.dim() == 3:
        x = x[:, None]
    if x.dim() != 4 or x.shape[1] != 1:
        raise ValueError(f"numbers of shape {tuple(values.shape)} are no map: (H,W) or (B,1,H,W)")
    x = _to_unit(x)
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", antialias=True)


def _to_unit(x: Tensor) -> Tensor:
    """In float32 and [0,1]."""
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not x.is_floating_point():
        raise ValueError(f"pictures are uint8, or floats from 0 to 1, and not {x.dtype}")
    if not (x.numel() and x.min() >= 0 and x.max() <= 1):  # also where one is NaN
        raise ValueError("pictures of floats go from 0 to 1, and these have numbers outside")
    return x.float()
