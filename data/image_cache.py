"""CachedImages pictures: decoded and reduced once, kept in one file, mapped into memory.

A prepared picture is a pure function of its file, so `CachedImages` holds exactly the arrays that
`Decoded` makes anew on each access; which of the two is used changes nothing but the time.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image
from tqdm.auto import tqdm

from .files import DAY, file_stamp, remove_stale_parts, short_hash, temporary_path, write_atomic
from .images import read_image
from .prefetch import prefetch_map

FORMAT = 2  # another number when the file's layout or the preparation changes
HEADER = 32  # bytes of the fingerprint, which the data file begins with
AHEAD = 64  # pictures decoded before their turn to be written; what bounds the memory

Entry = tuple[int, int, int] | str  # height, width and CRC-32; or why the picture is unreadable


@dataclass(frozen=True)
class UncachedImages:
    """CachedImages pictures (H,W,3) uint8, read-only, each decoded when it is asked for.

    Raises:
        ValueError: on access, the picture is unreadable; says why.
    """

    paths: Sequence[Path]
    side: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(_reduced(read_image(self.paths[index], self.side), self.side))


class CachedImages:
    """The same pictures out of the file that `prepare` wrote.

    Pickled as the file's name, so that a loader's workers map it themselves.

    Args:
        data: the data file; its index lies beside it.
        fingerprint: of the pictures that it must hold.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged or holds other pictures; or, on access, the picture is
            unreadable or damaged.
    """

    def __init__(self, data: Path, fingerprint: str) -> None:
        self.data, self.fingerprint = data, fingerprint
        self._entries = _read_index(data, fingerprint)
        *self._starts, end = accumulate(map(_bytes, self._entries), initial=HEADER)
        self._content = np.asarray(np.memmap(data, np.uint8, "r"))
        header = self._content[:HEADER].tobytes()
        if header.hex() != fingerprint or len(self._content) != end:
            raise ValueError(f"{data} does not hold what its index says")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> np.ndarray:
        entry, start = self._entries[index], self._starts[index]
        if isinstance(entry, str):
            raise ValueError(entry)
        height, width, checksum = entry
        picture = self._content[start : start + _bytes(entry)]
        if zlib.crc32(picture.data) != checksum:
            raise ValueError(f"{self.data} is damaged; delete it, and it will be made again")
        return picture.reshape(height, width, 3)

    def __reduce__(self) -> tuple[type["CachedImages"], tuple[Path, str]]:
        return CachedImages, (self.data, self.fingerprint)


def cached_side(size: int, crop_scale: float) -> int:
    """Shorter side at which no square crop to `size` is enlarged.

    Args:
        size: side of the crops in pixels.
        crop_scale: smallest crop area, as a share of the largest square.
    """
    return math.ceil(size / math.sqrt(crop_scale))


def prepare(
    paths: Sequence[Path], side: int, cache: Path, name: str
) -> CachedImages | UncachedImages:
    """Pictures with their shorter side reduced to `side`, out of a cache that is made if need be.

    The cache belongs to these paths as they are on the disk now; when a file changes or the list
    does, it is made again in the place of the old one. Where it cannot be written, a warning says
    why, and the pictures are decoded on each access.

    Args:
        paths: the files, at least one.
        side: of the prepared pictures, in pixels; smaller pictures are kept as they are.
        cache: folder under which the data are written, in `prepared`.
        name: what the pictures are, for the file's name and the progress bar.
    """
    fingerprint = _fingerprint(paths, side)
    data = cache / "prepared" / f"{name}-{side}-{_place(paths)}.u8"
    try:
        return CachedImages(data, fingerprint)
    except (OSError, ValueError, TypeError, LookupError):
        pass  # none yet, one of other pictures, or one that is damaged in any way
    try:
        _build(UncachedImages(paths, side), data, fingerprint, name)
        return CachedImages(data, fingerprint)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"the {name} cannot be kept prepared in {data.parent} ({error}); "
            "pictures are decoded each time instead",
            stacklevel=2,
        )
        return UncachedImages(paths, side)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """Shorter side reduced to `side`, the other one in proportion."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fingerprint(paths: Sequence[Path], side: int) -> str:
    """SHA-256 of everything that the prepared pictures depend on, Pillow's decoders included."""
    files = [(str(path.absolute()), file_stamp(path)) for path in paths]
    content = json.dumps([FORMAT, PIL.__version__, side, files])
    return hashlib.sha256(content.encode()).hexdigest()


def _place(paths: Sequence[Path]) -> str:
    """A short hash of the folder that holds all the files."""
    return short_hash(Path(os.path.commonpath([path.parent.absolute() for path in paths])))[:8]


def _read_index(data: Path, fingerprint: str) -> list[Entry]:
    index = json.loads(data.with_suffix(".json").read_text(encoding="utf-8"))
    if not isinstance(index, dict) or index.get("fingerprint") != fingerprint:
        raise ValueError(f"{data} holds other pictures")
    return [entry if isinstance(entry, str) else tuple(entry) for entry in index["pictures"]]


def _bytes(entry: Entry) -> int:
    return 0 if isinstance(entry, str) else entry[0] * entry[1] * 3


def _build(pictures: UncachedImages, data: Path, fingerprint: str, name: str) -> None:
    """Write the data, then the index, each aside first; another process may do the same."""
    data.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(data.parent, older_than=DAY)
    _check_room(pictures, data.parent)
    with temporary_path(data) as file:
        entries = _write(pictures, file, fingerprint, name)
    index = {"fingerprint": fingerprint, "pictures": entries}
    write_atomic(data.with_suffix(".json"), json.dumps(index))


def _check_room(pictures: UncachedImages, folder: Path) -> None:
    """Refuse to fill the disk: the size is a guess, for pictures of 4:3 that are all reduced."""
    needed, free = len(pictures) * pictures.side**2 * 4, shutil.disk_usage(folder).free
    if needed > free / 2:
        raise OSError(f"that might take {needed / 1e9:.1f} GB, and only {free / 1e9:.1f} are free")


def _write(pictures: UncachedImages, file: BinaryIO, fingerprint: str, name: str) -> list[Entry]:
    entries: list[Entry] = []
    file.write(bytes.fromhex(fingerprint))
    decoded = tqdm(_in_order(pictures), f"preparing {name}", len(pictures), leave=False, delay=2)
    for picture in decoded:
        if isinstance(picture, str):
            entries.append(picture)
        else:
            height, width, _ = picture.shape
            entries.append((height, width, zlib.crc32(picture.data)))
            file.write(picture.data)
    return entries


def _in_order(pictures: UncachedImages) -> Iterator[np.ndarray | str]:
    """All pictures or the complaints about them, decoded in parallel."""
    with ThreadPoolExecutor() as pool:
        decode = partial(_picture_or_complaint, pictures)
        yield from prefetch_map(pool, decode, range(len(pictures)), AHEAD)


def _picture_or_complaint(pictures: UncachedImages, index: int) -> np.ndarray | str:
    try:
        return pictures[index]
    except ValueError as error:
        return str(error)
