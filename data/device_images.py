"""Training images in the memory of a device, and crops there, without the loader's decoding.

The crops are those of ``dataset.random_crop`` bit for bit: Pillow's resampling in its fixed-point
arithmetic (``Resample.c``), for a batch at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .dataset import Images, RawBatch, StoredImage, readable

BITS = 22  # of a weight's fraction
SUPPORT = 2.0  # of the bicubic kernel


class DeviceImages:
    """All images of several collections; ``collections`` serve ``PairDataset`` in their place.

    Args:
        collections: at least one image each; an unreadable one is replaced by the next.
        size: side of the crops in pixels.
        device: where to store them.
    """

    def __init__(self, collections: Sequence[Images], size: int, device: torch.device) -> None:
        self.size = size
        self.collections: list[list[StoredImage]] = []
        pixels: list[Tensor] = []
        with ThreadPoolExecutor() as pool:
            for images in collections:
                arrays = pool.map(lambda i, x=images: readable(x, i)[0], range(len(images)))
                stored = []
                for image in arrays:
                    assert isinstance(image, np.ndarray)
                    height, width, _ = image.shape
                    stored.append(StoredImage(len(pixels), height, width))
                    flat = torch.from_numpy(np.array(image)).view(-1, 3)
                    pixels.append(flat.to(device))
                self.collections.append(stored)
        every = [image for stored in self.collections for image in stored]
        starts = accumulate((x.height * x.width for x in every[:-1]), initial=0)
        self.pixels = torch.cat(pixels)  # (N,3)
        self.start = torch.tensor(list(starts), device=device)
        self.height = torch.tensor([x.height for x in every], device=device)
        self.width = torch.tensor([x.width for x in every], device=device)

    def crop(self, raw: RawBatch) -> RawBatch:
        """Replace the crops (B,6) that ``PairDataset`` has drawn by their pixels (B,3,S,S)."""
        return raw | {name: self._crop(raw[name]) for name in ("content", "style")}  # type: ignore

    def _crop(self, drawn: Tensor) -> Tensor:
        boxes = drawn[:, 1:5].float()  # x, y, right, bottom; Pillow takes them as float32
        extent = float((boxes[:, 2:] - boxes[:, :2]).max())  # on the host: no synchronization
        reach = SUPPORT * max(1.0, extent / self.size)
        taps, rows = int(2 * reach) + 2, int(extent + 2 * reach) + 3
        drawn, boxes = (x.to(self.pixels.device, non_blocking=True) for x in (drawn, boxes))
        index, mirrored = drawn[:, 0].long(), drawn[:, 5].bool()
        height, width = self.height[index], self.width[index]
        column, column_weights = _taps(boxes[:, 0], boxes[:, 2], width, self.size, taps)
        row, row_weights = _taps(boxes[:, 1], boxes[:, 3], height, self.size, taps)

        top = row[:, :1]  # (B,1)
        y = torch.minimum(top + torch.arange(rows, device=row.device), height[:, None] - 1)
        first = self.start[index][:, None] + y * width[:, None]  # (B,R) start of each row
        narrow = _weighted(
            column_weights[:, None],
            lambda k: self.pixels[
                first[..., None] + torch.minimum(column + k, width[:, None] - 1)[:, None]
            ],
        )  # (B,R,S,3)
        images = torch.arange(len(index), device=row.device)[:, None]
        crops = _weighted(
            row_weights[:, :, None],
            lambda k: narrow[images, (row + k - top).clamp(max=rows - 1)],
        )  # (B,S,S,3)
        crops = torch.where(mirrored[:, None, None, None], crops.flip(2), crops)
        return crops.permute(0, 3, 1, 2).contiguous()


def _taps(
    first: Tensor, last: Tensor, length: Tensor, size: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return the first input position (B,S) of each output, and its weights (B,S,K).

    Args:
        first, last: the box (B,) along one axis, float32.
        length: sides (B,) of the images.
        size: S, number of outputs.
        count: K, at least the number of weights that are not zero.
    """
    scale = ((last - first).double() / size)[:, None]
    stretch = scale.clamp_min(1)
    outputs = torch.arange(size, device=first.device)
    center = first.double()[:, None] + (outputs + 0.5) * scale  # (B,S)
    low = (center - SUPPORT * stretch + 0.5).long().clamp_min(0)
    high = torch.minimum((center + SUPPORT * stretch + 0.5).long(), length[:, None])
    position = low[..., None] + torch.arange(count, device=first.device)  # (B,S,K)
    x = ((position - center[..., None] + 0.5) * (1 / stretch)[..., None]).abs()
    inner, outer = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights = torch.where(position < high[..., None], weights, 0.0)
    total = sum(weights.unbind(2))  # in this order, as rounding depends on it
    fixed = weights / total[..., None] * 2**BITS  # type: ignore[index]
    return low, (fixed + torch.where(fixed < 0, -0.5, 0.5)).int()  # rounds to nearest


def _weighted(weights: Tensor, values: Callable[[int], Tensor]) -> Tensor:
    """Return the sums of uint8 ``values(k)`` (…,3) times weights (…,K), rounded, as uint8."""
    total: Tensor | int = 1 << (BITS - 1)
    for k in range(weights.shape[-1]):
        total = total + values(k).int() * weights[..., k, None]
    assert isinstance(total, Tensor)
    return (total >> BITS).clamp(0, 255).to(torch.uint8)
