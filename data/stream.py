"""The training stream: position -> (photo, painting, strength), a pure function of the seed.

Position p is the p-th pair of the whole run. Order, crops, strengths and augmentation numbers
are drawn from (seed, p), so worker count, process count and interruptions cannot change them.
"""

import signal
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .images import read_image, to_tensor

AUGMENT_NUMBERS = 8  # uniform numbers per position for whoever needs randomness later


class Pair(TypedDict):
    """One training example; batched, each gets a leading B."""

    content: Tensor  # (3,S,S) in [0,1]
    style: Tensor  # (3,S,S) in [0,1]
    strength: Tensor  # (1,S,S) in [0,1]
    full: Tensor  # () 1.0 where the strength is 1 everywhere
    uniform: Tensor  # (8,) in [0,1)
    position: Tensor  # () int64


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(length)


def shuffled_index(seed: int, stream: int, position: int, length: int) -> int:
    """Index at a position of an endless, epoch-wise shuffled order."""
    epoch, offset = divmod(position, length)
    return int(_permutation(seed, stream, epoch, length)[offset])


def random_crop(image: Image.Image, size: int, scale: float, rng: np.random.Generator) -> Tensor:
    """Random resized crop, (3,size,size): area from ``scale`` to 1, aspect 3:4 to 4:3."""
    w, h = image.size
    area = rng.uniform(scale, 1.0) * min(w, h) ** 2
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_w, crop_h = min(w, (area * aspect) ** 0.5), min(h, (area / aspect) ** 0.5)
    x, y = rng.uniform(0, w - crop_w), rng.uniform(0, h - crop_h)
    box = (x, y, x + crop_w, y + crop_h)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    tensor = to_tensor(resized)
    return tensor.flip(-1) if rng.random() < 0.5 else tensor


def draw_strength(size: int, full_share: float, rng: np.random.Generator) -> Tensor:
    """Strength map (1,size,size): 1 with probability ``full_share``, else one number in [0,1],
    a quarter of those times a smooth random map.
    """
    if rng.random() < full_share:
        return torch.ones(1, size, size)
    if rng.random() < 0.75:
        return torch.full((1, size, size), float(rng.random()))
    coarse = torch.from_numpy(rng.random((1, 1, 4, 4), dtype=np.float32))
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)[0]


class PairStream(Dataset[Pair]):
    """Map-style dataset over positions; see the module's text.

    Args:
        photos, paintings: training files.
        size: side of the crops in pixels.
        seed: of the run.
        full_share: share of examples at full strength.
        crop_scale: smallest crop area, as a share of the largest square.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        paintings: Sequence[Path],
        size: int,
        seed: int,
        full_share: float = 1.0,
        crop_scale: float = 0.5,
    ) -> None:
        self.photos, self.paintings = photos, paintings
        self.size, self.seed = size, seed
        self.full_share, self.crop_scale = full_share, crop_scale

    def __getitem__(self, position: int) -> Pair:
        rng = np.random.default_rng([self.seed, position])
        content = self._crop(self.photos, 1, position, rng)
        style = self._crop(self.paintings, 2, position, rng)
        strength = draw_strength(self.size, self.full_share, rng)
        return {
            "content": content,
            "style": style,
            "strength": strength,
            "full": strength.amin().eq(1).float(),
            "uniform": torch.from_numpy(rng.random(AUGMENT_NUMBERS, dtype=np.float32)),
            "position": torch.tensor(position),
        }

    def _crop(
        self, paths: Sequence[Path], stream: int, position: int, rng: np.random.Generator
    ) -> Tensor:
        index = shuffled_index(self.seed, stream, position, len(paths))
        # A file that broke or vanished since the check is replaced by its neighbour, loudly.
        for attempt in range(min(10, len(paths))):
            path = paths[(index + attempt) % len(paths)]
            try:
                return random_crop(
                    read_image(path, at_least=self.size), self.size, self.crop_scale, rng
                )
            except ValueError as error:
                warnings.warn(f"{error}; its neighbour takes its place", stacklevel=2)
        raise ValueError(f"ten pictures in a row cannot be read, the last one {path}")


class Positions(Sampler[int]):
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
    dataset: Dataset[Pair], positions: Positions, micro_batch: int, workers: int
) -> DataLoader[Pair]:
    """Batches of ``micro_batch`` examples in the order of the positions."""
    return DataLoader(
        dataset,
        batch_size=micro_batch,
        sampler=positions,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    """One thread each, decoding is parallel over workers already; and stopping is the trainer's
    business, or Ctrl-C (which reaches the whole process group) would kill the workers under it.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
