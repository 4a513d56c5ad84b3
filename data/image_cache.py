"""Cache of decoded, downscaled training images: one .npy file each, mapped into memory.

A cached image is a pure function of its file, so `CachedImages` returns exactly the arrays that
`UncachedImages` decodes on each access. Which of the two is used changes only the speed.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.lib.format import open_memmap
from PIL import Image
from tqdm.auto import tqdm

from .files import DAY, file_stamp, remove_stale_parts, short_hash, temporary_path
from .images import ImageError, read_image
from .prefetch import prefetch_map

FORMAT = 1  # increase when cached images would differ
AHEAD = 64  # images decoded before their turn


@dataclass(frozen=True)
class UncachedImages:
    """Images (H,W,3) uint8 with a shorter side of at most ``side``, decoded on each access.

    Raises:
        ImageError: on access, the image is unreadable.
    """

    paths: Sequence[Path]
    side: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        image = read_image(self.paths[index], self.side)
        scale = self.side / min(image.size)
        if scale < 1:
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.asarray(image)


@dataclass(frozen=True)
class CachedImages:
    """The same images, read from their cache files; one without a usable file is decoded.

    Raises:
        ImageError: on access, the image is neither cached nor readable.
    """

    images: UncachedImages
    files: Sequence[Path]  # .npy file of each image

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return _open(self.files[index])
        except (OSError, ValueError):  # missing or damaged
            return self.images[index]


def cached_side(size: int, crop_scale: float) -> int:
    """Return the smallest shorter side at which no square crop is enlarged.

    Args:
        size: side of the resized crops, in pixels.
        crop_scale: smallest crop area, as a share of the largest square.
    """
    return math.ceil(size / math.sqrt(crop_scale))


def build_cache(
    paths: Sequence[Path], side: int, cache: Path, name: str
) -> CachedImages | UncachedImages:
    """Decode the images that are not cached yet, and return all of them.

    An entry is valid as long as its file keeps size and modification time. Damaged entries are
    rebuilt, and those of files that changed or left the list are removed. Several processes may
    build at once. If the cache cannot be written, warn and decode on each access instead.

    Args:
        paths: the image files, at least one.
        side: shorter side in pixels; smaller images are not enlarged.
        cache: directory for all caches; the entries are written in ``images`` below it.
        name: name of the images, for the directory and the progress bar.
    """
    images = UncachedImages(paths, side)
    common = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    folder = cache / "images" / f"{name}-{side}-{short_hash(common)[:8]}"
    cached = CachedImages(images, [folder / f"{_key(path, side)}.npy" for path in paths])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(folder, older_than=DAY)
        for file in set(folder.glob("*.npy")).difference(cached.files):
            file.unlink(missing_ok=True)
        missing = [index for index, file in enumerate(cached.files) if not _is_intact(file)]
        needed, free = len(missing) * side**2 * 4, shutil.disk_usage(folder).free  # if all are 4:3
        if needed > free / 2:
            raise OSError(f"it might take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        with ThreadPoolExecutor() as pool:
            stored = prefetch_map(pool, lambda index: _store(cached, index), missing, AHEAD)
            for _ in tqdm(stored, f"caching {name}", len(missing), leave=False, delay=2):
                pass
    except OSError as error:
        warnings.warn(
            f"the {name} cannot be cached in {folder} ({error}); decoding them on each access",
            stacklevel=2,
        )
        return images
    return cached


def _key(path: Path, side: int) -> str:
    """Hash everything that a cached image depends on, including the version of the decoders."""
    content = json.dumps([FORMAT, PIL.__version__, side, str(path.absolute()), file_stamp(path)])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _open(file: Path) -> np.ndarray:
    return np.asarray(open_memmap(file, mode="r"))


def _is_intact(file: Path) -> bool:
    try:
        return _open(file).ndim == 3
    except (OSError, ValueError):
        return False


def _store(cached: CachedImages, index: int) -> None:
    try:
        image = cached.images[index]
    except ImageError:  # raised again on access
        return
    with temporary_path(cached.files[index]) as file:
        np.save(file, image)
