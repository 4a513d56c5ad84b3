"""Training pairs: position -> (photo, painting, strength), a pure function of the seed.

Position p is the p-th pair of the whole run. Order, crops, strengths and augmentation numbers are
drawn from (seed, p), so they do not depend on the number of workers or processes, or on resuming.
"""

import atexit
import signal
import warnings
import weakref
from collections.abc import Iterable, Iterator
from functools import lru_cache
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

AUGMENT_NUMBERS = 8  # uniform random numbers per position, for augmentation and noise on the device
NEIGHBORS = 1000  # tried in the place of an unreadable image; a whole subfolder may disappear


class Batch(TypedDict):
    """A batch on the device, as the networks take it."""

    content: Tensor  # (B,3,S,S) float32 in [0,1]
    style: Tensor  # (B,3,S,S) float32 in [0,1]
    strength: Tensor  # (B,1,S,S) float32 in [0,1]
    full: Tensor  # (B,) 1.0 where the strength is 1 everywhere
    uniform: Tensor  # (B,8) float32 in [0,1)
    position: Tensor  # (B,) int64


class RawBatch(TypedDict):
    """A training example, compact for the transfer to the device; collated, with a leading B."""

    content: Tensor  # (3,S,S) uint8
    style: Tensor  # (3,S,S) uint8
    strength: Tensor  # (1,4,4) float32 in [0,1], coarse
    full: Tensor  # () 1.0 where the strength is 1 everywhere
    uniform: Tensor  # (8,) float32 in [0,1)
    position: Tensor  # () int64


class Images(Protocol):
    """Images (H,W,3) uint8; access to an unreadable one raises a ValueError."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> np.ndarray: ...


def unpack(raw: RawBatch, device: torch.device) -> Batch:
    """Move a batch to the device; images become float32 channels_last, strengths full size."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    def to_float(images: Tensor) -> Tensor:
        return move(images).to(torch.float32, memory_format=torch.channels_last).div_(255)

    return {
        "content": to_float(raw["content"]),
        "style": to_float(raw["style"]),
        "strength": _upsample(move(raw["strength"]), raw["content"].shape[-1]),
        "full": move(raw["full"]),
        "uniform": move(raw["uniform"]),
        "position": move(raw["position"]),
    }


def split(raw: RawBatch, parts: int) -> list[RawBatch]:
    """Split a batch into equal micro-batches."""
    chunks = {name: value.chunk(parts) for name, value in raw.items()}  # type: ignore[attr-defined]
    return [{name: chunks[name][i] for name in chunks} for i in range(parts)]  # type: ignore[misc]


def _upsample(coarse: Tensor, size: int) -> Tensor:
    """Upsample strengths (B,1,4,4) smoothly to (B,1,size,size); constant ones stay exact."""
    smooth = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    low, high = coarse.amin((2, 3), keepdim=True), coarse.amax((2, 3), keepdim=True)
    return torch.where(low == high, low, smooth)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(length)


def shuffled_index(seed: int, stream: int, position: int, length: int) -> int:
    """Return the index at a position of an endless order that is shuffled in every epoch."""
    epoch, offset = divmod(position, length)
    return int(_permutation(seed, stream, epoch, length)[offset])


def random_crop(image: np.ndarray, size: int, scale: float, rng: np.random.Generator) -> Tensor:
    """Crop an image (H,W,3) uint8 randomly and resize it to (3,size,size) uint8.

    The area is uniform in [scale, 1] times the largest square, the aspect ratio log-uniform in
    [3/4, 4/3], before the crop is cut to the image, to no less than 0.86 of its area. Half of the
    crops are mirrored.
    """
    h, w, _ = image.shape
    area = rng.uniform(scale, 1.0) * min(w, h) ** 2
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_w, crop_h = min(w, (area * aspect) ** 0.5), min(h, (area / aspect) ** 0.5)
    x, y = rng.uniform(0, w - crop_w), rng.uniform(0, h - crop_h)
    box = (x, y, x + crop_w, y + crop_h)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box)
    crop = np.asarray(resized)
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(np.ascontiguousarray(rearrange(crop, "h w c -> c h w")))


def draw_strength(full_prob: float, rng: np.random.Generator) -> Tensor:
    """Draw a coarse strength map (1,4,4): 1 everywhere with probability ``full_prob``; otherwise
    one constant in [0,1] (three in four) or a random map.
    """
    if rng.random() < full_prob:
        return torch.ones(1, 4, 4)
    if rng.random() < 0.75:
        return torch.full((1, 4, 4), float(rng.random()))
    return torch.from_numpy(rng.random((1, 4, 4), dtype=np.float32))


class PairDataset(Dataset[RawBatch]):
    """Map-style dataset over positions; see the module's docstring.

    Args:
        photos, paintings: training images.
        size: side of the crops in pixels.
        seed: seed of the run.
        full_strength_prob: probability that an example has strength 1 everywhere.
        crop_scale: ``scale`` of ``random_crop``.
        paintings_as_photos: probability that another painting takes the place of the photo.
    """

    def __init__(
        self,
        photos: Images,
        paintings: Images,
        size: int,
        seed: int,
        full_strength_prob: float = 1.0,
        crop_scale: float = 0.5,
        paintings_as_photos: float = 0.0,
    ) -> None:
        self.photos, self.paintings = photos, paintings
        self.size, self.seed = size, seed
        self.full_strength_prob, self.crop_scale = full_strength_prob, crop_scale
        self.paintings_as_photos = paintings_as_photos
        self._warned: set[str] = set()

    def __getitem__(self, position: int) -> RawBatch:
        rng = np.random.default_rng([self.seed, position])
        is_painting, photo, painting = self.indices(position)
        content = self._crop(self.paintings if is_painting else self.photos, photo, rng)
        style = self._crop(self.paintings, painting, rng)
        strength = draw_strength(self.full_strength_prob, rng)
        return {
            "content": content,
            "style": style,
            "strength": strength,
            "full": strength.amin().eq(1).float(),
            "uniform": torch.from_numpy(rng.random(AUGMENT_NUMBERS, dtype=np.float32)),
            "position": torch.tensor(position),
        }

    def indices(self, position: int) -> tuple[bool, int, int]:
        """Return whether the photo is a painting, its index, and that of the (other) painting."""
        count = len(self.paintings)
        painting = shuffled_index(self.seed, 2, position, count)
        rng = np.random.default_rng([self.seed, 3, position])
        if rng.random() < self.paintings_as_photos and count > 1:
            return True, (painting + int(rng.integers(1, count))) % count, painting
        return False, shuffled_index(self.seed, 1, position, len(self.photos)), painting

    def _crop(self, images: Images, index: int, rng: np.random.Generator) -> Tensor:
        """Crop an image; one that became unreadable is replaced by the next, with one warning."""
        reason = ""
        tries = min(NEIGHBORS, len(images))
        for neighbor in range(index, index + tries):
            try:
                image = images[neighbor % len(images)]
            except ValueError as error:
                reason = reason or str(error)
                continue
            if reason and reason not in self._warned:
                self._warned.add(reason)
                warnings.warn(f"{reason}; using the next image instead", stacklevel=2)
            return random_crop(image, self.size, self.crop_scale, rng)
        raise ValueError(f"{tries} images in a row are unreadable; the first: {reason}")


class PositionSampler(Sampler[int]):
    """The positions of one process: its part of each global batch from ``start`` to ``stop``."""

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, world: int = 1) -> None:
        assert batch % world == 0
        self.start, self.stop, self.batch = start, stop, batch
        self.local, self.rank = batch // world, rank

    def __iter__(self) -> Iterator[int]:
        for step in range(self.start, self.stop):
            first = step * self.batch + self.rank * self.local
            yield from range(first, first + self.local)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.local


def make_loader(
    dataset: Dataset[RawBatch], positions: PositionSampler, workers: int
) -> DataLoader[RawBatch]:
    """Make a loader of this process's part of each batch, in the order of the positions."""
    return _Loader(
        dataset,
        batch_size=positions.local,
        sampler=positions,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_start_worker,
    )


class _Loader(DataLoader[RawBatch]):
    """Kills its workers at exit: Python sends them SIGTERM, which they ignore, and would wait."""

    def __iter__(self) -> Any:
        others = active_children()
        iterator = super().__iter__()
        if workers := set(active_children()).difference(others):
            atexit.register(_kill, weakref.WeakSet(workers))
        return iterator


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if hasattr(signal, "SIGCHLD"):  # torch's handler would raise an error
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker.kill()


def _start_worker(_: int) -> None:
    """Use one thread, as workers run in parallel, and leave SIGINT and SIGTERM, which may reach the
    whole process group, to the trainer.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
