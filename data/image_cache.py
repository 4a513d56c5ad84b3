"""Cache of decoded, downscaled training images: one file each, mapped into memory. It holds the
pixels (H,W,3) uint8, then H, W and the CRC-32 of all that, as little-endian uint32.

A cached image is a pure function of its file, so the cache changes only the speed.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from tqdm.auto import tqdm

from .files import DAY, file_stamp, remove_stale_parts, short_hash, write_atomic
from .images import ImageError, read_image

FORMAT = 2  # increase when cached images would differ
TRAILER = 12  # bytes after the pixels


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
            with suppress(OSError, ValueError):  # missing or damaged
                return _read(self.files[index])
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

    An entry is valid as long as its file keeps size and modification time. Damaged entries are
    rebuilt, and those of files that changed or left the list are removed. Several processes may
    build at once. If the cache cannot be written, warn and decode on each access instead.

    Args:
        paths: the image files, at least one.
        side: shorter side in pixels; smaller images are not enlarged.
        cache: directory for all caches; the entries are written in ``images`` below it.
        name: name of the images, for the directory and the progress bar.
    """
    common = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    folder = cache / "images" / f"{name}-{side}-{short_hash(common)[:8]}"
    files = [folder / f"{_key(path, side)}.rgb" for path in paths]
    images = ResizedImages(paths, side, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(folder, older_than=DAY)
        for file in set(folder.glob("*.???")).difference(files):
            file.unlink(missing_ok=True)
        missing = [index for index, file in enumerate(files) if not _is_whole(file)]
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


def _key(path: Path, side: int) -> str:
    """Hash everything that a cached image depends on, including the version of the decoders."""
    content = json.dumps([FORMAT, PIL.__version__, side, str(path.absolute()), file_stamp(path)])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _read(file: Path, verify: bool = True) -> np.ndarray:
    """Map a cached image (H,W,3) into memory.

    Raises:
        ValueError: the file has another size than its image, or (``verify``) another CRC-32.
    """
    content = np.memmap(file, mode="r")
    height, width, crc = content[-TRAILER:].view("<u4")
    if verify and zlib.crc32(content[:-4].data) != crc:
        raise ValueError(f"{file} is damaged")
    return np.asarray(content[:-TRAILER].reshape(height, width, 3))


def _is_whole(file: Path) -> bool:
    """Return whether the size is right; the content is verified on access only, which is slower."""
    try:
        _read(file, verify=False)
    except (OSError, ValueError):
        return False
    return True


def _store(images: ResizedImages, index: int) -> None:
    try:
        image = images.decode(index)
    except ImageError:  # raised again on access
        return
    content = image.tobytes() + np.array(image.shape[:2], "<u4").tobytes()
    write_atomic(images.files[index], content + zlib.crc32(content).to_bytes(4, "little"))
