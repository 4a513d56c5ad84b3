"""Cache of decoded, downscaled training images: one ``.npy`` file each, mapped into memory.

A cached image is a pure function of its file, so the cache changes only the speed.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from tqdm.auto import tqdm

from .files import DAY, file_stamp, remove_stale_parts, short_hash, temporary_path
from .images import ImageError, read_image

FORMAT = 3  # increase when cached images would differ


@dataclass(frozen=True)
class ResizedImages:
    """Images (H,W,3) uint8 with a shorter side of at most ``side``, decoded on each access, or read
    from their cache files where these are usable.

    Raises:
        ImageError: on access, the image is neither cached nor readable.
    """

    paths: Sequence[Path]
    side: int
    files: Sequence[Path] = ()  # cache file of each image

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.files:
            with suppress(OSError, ValueError, EOFError):  # missing or damaged
                return np.asarray(np.load(self.files[index], mmap_mode="r"))
        return self.decode(index)

    def decode(self, index: int) -> np.ndarray:
        """Return an image from its own file."""
        image = read_image(self.paths[index], self.side)
        scale = self.side / min(image.size)
        if scale < 1:
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.asarray(image)


def cached_side(size: int, crop_scale: float) -> int:
    """Return the smallest shorter side at which no square crop is enlarged."""
    return math.ceil(size / math.sqrt(crop_scale))


def build_cache(paths: Sequence[Path], side: int, cache: Path, name: str) -> ResizedImages:
    """Decode the images that are not cached yet, and return all of them.

    An entry is valid as long as its file keeps size and modification time; those of files that
    changed or left the list are removed. Several processes may build at once. If the cache cannot
    be written, warn and decode on each access instead.

    Args:
        paths: the image files, at least one.
        side: shorter side in pixels; smaller images are not enlarged.
        cache: directory for all caches; the entries are written in ``images`` below it.
        name: name of the images, for the directory and the progress bar.
    """
    common = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    folder = cache / "images" / f"{name}-{side}-{short_hash(common)[:8]}"
    # Everything that a cached image depends on, including the version of the decoders.
    facts = ([FORMAT, PIL.__version__, side, str(p.absolute()), file_stamp(p)] for p in paths)
    keys = (hashlib.sha256(json.dumps(fact).encode()).hexdigest()[:32] for fact in facts)
    files = [folder / f"{key}.npy" for key in keys]
    images = ResizedImages(paths, side, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(folder, older_than=DAY)
        for file in set(folder.glob("*.???")).difference(files):
            file.unlink(missing_ok=True)
        missing = [index for index, file in enumerate(files) if not file.is_file()]
        needed, free = len(missing) * side**2 * 4, shutil.disk_usage(folder).free  # if all are 4:3
        if needed > free / 2:
            raise OSError(f"it might take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        with ThreadPoolExecutor() as pool:
            stored = pool.map(lambda index: _store(images, index), missing)
            for _ in tqdm(stored, f"caching {name}", len(missing), leave=False, delay=2):
                pass
    except OSError as error:
        warnings.warn(
            f"the {name} cannot be cached in {folder} ({error}); decoding them on each access",
            stacklevel=2,
        )
        return ResizedImages(paths, side)
    return images


def _store(images: ResizedImages, index: int) -> None:
    try:
        image = images.decode(index)
    except ImageError:  # raised again on access
        return
    with temporary_path(images.files[index]) as file:
        np.save(file, image)
