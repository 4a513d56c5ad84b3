"""The training stream: position -> (photo, painting, strength), a pure function of the seed.

Position p is the p-th pair of the whole run. Order, crops, strengths and augmentation numbers
are drawn from (seed, p), so worker count, process count and interruptions cannot change them.
"""

import atexit
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

AUGMENT_NUMBERS = 8  # uniform numbers per position for whoever needs randomness later
NEIGHBOURS = 1000  # tried in the place of a picture; a whole subfolder may vanish


class Batch(TypedDict):
    """A batch as the networks want it, on their device."""

    content: Tensor  # (B,3,S,S) float32 in [0,1]
    style: Tensor  # (B,3,S,S) float32 in [0,1]
    strength: Tensor  # (B,1,S,S) float32 in [0,1]
    full: Tensor  # (B,) 1.0 where the strength is the run's highest everywhere
    uniform: Tensor  # (B,8) float32 in [0,1)
    position: Tensor  # (B,) int64


class RawBatch(TypedDict):
    """One training example, compact for the way to the device; batched, each gets a leading B."""

    content: Tensor  # (3,S,S) uint8
    style: Tensor  # (3,S,S) uint8
    strength: Tensor  # (1,4,4) float32 in [0,1], coarse
    full: Tensor  # () 1.0 where the strength is the run's highest everywhere
    uniform: Tensor  # (8,) float32 in [0,1)
    position: Tensor  # () int64


class Pictures(Protocol):
    """What crops are taken from: `Decoded` or `Prepared`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray:
        """A picture (H,W,3) uint8.

        Raises:
            ValueError: it is unreadable.
        """
        ...


def unpack(packed: RawBatch, device: torch.device) -> Batch:
    """A batch on the device, its pictures as float32 in channels_last, its strengths full size."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return {
        "content": _floats(moved(packed["content"])),
        "style": _floats(moved(packed["style"])),
        "strength": _enlarged(moved(packed["strength"]), packed["content"].shape[-1]),
        "full": moved(packed["full"]),
        "uniform": moved(packed["uniform"]),
        "position": moved(packed["position"]),
    }


def split(packed: RawBatch, parts: int) -> list[RawBatch]:
    """A batch in equal parts."""
    chunks = {name: value.chunk(parts) for name, value in packed.items()}  # type: ignore[attr-defined]
    return [{name: chunks[name][i] for name in chunks} for i in range(parts)]  # type: ignore[misc]


def _floats(pictures: Tensor) -> Tensor:
    return pictures.to(torch.float32, memory_format=torch.channels_last).div_(255)


def _enlarged(coarse: Tensor, size: int) -> Tensor:
    """Smooth maps (B,1,size,size) out of coarse ones; an even map stays exactly even."""
    smooth = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    low, high = coarse.amin((2, 3), keepdim=True), coarse.amax((2, 3), keepdim=True)
    return torch.where(low == high, low, smooth)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(length)


def shuffled_index(seed: int, stream: int, position: int, length: int) -> int:
    """Index at a position of an endless, epoch-wise shuffled order."""
    epoch, offset = divmod(position, length)
    return int(_permutation(seed, stream, epoch, length)[offset])


def random_crop(picture: np.ndarray, size: int, scale: float, rng: np.random.Generator) -> Tensor:
    """Random resized crop of a picture (H,W,3) uint8, (3,size,size) uint8: area from ``scale`` to
    1, aspect 3:4 to 4:3, mirrored half of the time.
    """
    h, w, _ = picture.shape
    area = rng.uniform(scale, 1.0) * min(w, h) ** 2
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_w, crop_h = min(w, (area * aspect) ** 0.5), min(h, (area / aspect) ** 0.5)
    x, y = rng.uniform(0, w - crop_w), rng.uniform(0, h - crop_h)
    box = (x, y, x + crop_w, y + crop_h)
    resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box)
    crop = np.asarray(resized)
    upright = crop[:, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))


def draw_strength(full_share: float, rng: np.random.Generator) -> Tensor:
    """Coarse strength map (1,4,4): 1 with probability ``full_share``, else one number in [0,1],
    a quarter of those times a random map.
    """
    if rng.random() < full_share:
        return torch.ones(1, 4, 4)
    if rng.random() < 0.75:
        return torch.full((1, 4, 4), float(rng.random()))
    return torch.from_numpy(rng.random((1, 4, 4), dtype=np.float32))


class PairDataset(Dataset[RawBatch]):
    """Map-style dataset over positions; see the module's text.

    Args:
        photos, paintings: training pictures.
        size: side of the crops in pixels.
        seed: of the run.
        full_share: share of examples at full strength.
        strength: full strength, of which the others take a share.
        crop_scale: smallest crop area, as a share of the largest square.
    """

    def __init__(
        self,
        photos: Pictures,
        paintings: Pictures,
        size: int,
        seed: int,
        full_share: float = 1.0,
        crop_scale: float = 0.5,
    ) -> None:
        self.photos, self.paintings = photos, paintings
        self.size, self.seed = size, seed
        self.full_share, self.crop_scale = full_share, crop_scale
        self.warned: set[str] = set()  # each warning is given once

    def __getitem__(self, position: int) -> RawBatch:
        rng = np.random.default_rng([self.seed, position])
        photo, painting = self.indices(position)
        content = self._crop(self.photos, photo, rng)
        style = self._crop(self.paintings, painting, rng)
        share = draw_strength(self.full_share, rng)
        return {
            "content": content,
            "style": style,
            "strength": share,
            "full": share.amin().eq(1).float(),
            "uniform": torch.from_numpy(rng.random(AUGMENT_NUMBERS, dtype=np.float32)),
            "position": torch.tensor(position),
        }

    def indices(self, position: int) -> tuple[int, int]:
        """Which photo and which painting a position takes."""
        return (
            shuffled_index(self.seed, 1, position, len(self.photos)),
            shuffled_index(self.seed, 2, position, len(self.paintings)),
        )

    def _crop(self, pictures: Pictures, index: int, rng: np.random.Generator) -> Tensor:
        # A file that broke or vanished since the check is replaced by its neighbor, loudly, once.
        complaint = ""
        tries = min(NEIGHBOURS, len(pictures))
        for neighbor in range(index, index + tries):
            try:
                picture = pictures[neighbor % len(pictures)]
            except ValueError as error:
                complaint = complaint or str(error)
                continue
            if complaint and complaint not in self.warned:
                self.warned.add(complaint)
                warnings.warn(f"{complaint}; its neighbor takes its place", stacklevel=2)
            return random_crop(picture, self.size, self.crop_scale, rng)
        raise ValueError(f"{tries} pictures in a row cannot be read; of the first one: {complaint}")


class PositionSampler(Sampler[int]):
    """The positions of one process: its slice of every global batch, from ``start`` to ``stop``."""

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
    """This process's part of each batch, in the order of the positions."""
    return DataLoader(
        dataset,
        batch_size=positions.local,
        sampler=positions,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_start_worker,
    )


@atexit.register
def _end_workers() -> None:
    """At exit Python asks child processes with SIGTERM to end, and waits for those that don't."""
    for worker in multiprocessing.active_children():
        worker.kill()


def _start_worker(_: int) -> None:
    """One thread each, decoding is parallel over workers already; and stopping is the trainer's
    business, or Ctrl-C (which reaches the whole process group) would kill the workers under it.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
