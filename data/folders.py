"""Image folders: listing, checks, and the split into training, validation and test images."""

import hashlib
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from .files import file_stamp, identical_files, one_line, short_hash, write_atomic
from .images import SUFFIXES, ImageError, read_image
from .prefetch import prefetch_map

T = TypeVar("T")

MAX_UNREADABLE = 0.2  # a folder with a larger share of unreadable files is refused
AHEAD = 64  # files checked before their turn
NAMED = 20  # files named in a message
IGNORED = {"__MACOSX", "@eaDir"}  # folders of thumbnails that archives and storage devices add


@dataclass(frozen=True)
class Collection:
    """Image paths for training, model selection (validation) and the reported scores (test)."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]

    def manifest(self) -> dict[str, object]:
        """Return each file's name and size per split, and one SHA-256 of all of it."""
        splits = {
            name: [
                {
                    "name": f"{path.parent.name}/{path.name}",
                    "bytes": stamp[0] if (stamp := file_stamp(path)) else None,
                }
                for path in paths
            ]
            for name, paths in vars(self).items()
        }
        digest = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
        return {"sha256": digest, **splits}


@dataclass(frozen=True)
class Listing:
    """The files in a folder and its subfolders, except hidden ones; links are followed."""

    images: list[Path]  # by suffix, sorted
    others: list[Path]
    unreadable: dict[Path, OSError]  # subfolders


def list_folder(folder: Path) -> Listing:
    """List a folder; each subfolder once, however many links lead to it.

    Raises:
        ValueError: the folder does not exist or cannot be read.
    """
    unreadable: dict[Path, OSError] = {}
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    walk = os.walk(
        folder, onerror=lambda e: unreadable.update({Path(e.filename): e}), followlinks=True
    )
    for root, folders, names in walk:
        status = Path(root).stat()
        identity = status.st_dev, status.st_ino
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in IGNORED)
        files += [Path(root, name) for name in names if name[0] != "."]
    if isinstance(unreadable.get(folder), FileNotFoundError | NotADirectoryError):
        raise ValueError(one_line(f"there is no folder {folder}"))
    if folder in unreadable:
        message = f"the folder {folder} cannot be read: {unreadable[folder].strerror}"
        raise ValueError(one_line(message))
    images = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    others = sorted(path for path in files if path.suffix.lower() not in SUFFIXES)
    return Listing(images, others, unreadable)


def find_images(folder: Path) -> list[Path]:
    """List all files in a folder and its subfolders that have an image suffix, sorted.

    Subfolders that cannot be read are named in one warning.

    Raises:
        ValueError: the folder does not exist, cannot be read, or contains no images.
    """
    listing = list_folder(folder)
    if listing.unreadable:
        names = [f"{path}: {error.strerror}" for path, error in listing.unreadable.items()]
        warnings.warn(_itemize(f"some folders in {folder} cannot be read", names), stacklevel=2)
    if not listing.images:
        raise ValueError(no_images_message(folder))
    return listing.images


def no_images_message(folder: Path) -> str:
    """Return the message for a folder without images."""
    kinds = ", ".join(sorted(SUFFIXES))
    return one_line(f"{folder} contains no images ({kinds}; subfolders are searched)")


def _itemize(message: str, items: Sequence[str]) -> str:
    more = [f"and {len(items) - NAMED} more"] if len(items) > NAMED else []
    return "\n  ".join(one_line(line) for line in [f"{message}:", *items[:NAMED], *more])


def split(paths: Sequence[Path]) -> Collection:
    """Split the images of each folder by the rank of the SHA-1 of their names.

    The first tenth (at least 3) is test, the next tenth validation, the rest training. Of fewer
    than 9 images a third each is held out, so one or two all train.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    train, validation, test = list[Path](), list[Path](), list[Path]()
    for folder in sorted(by_folder):
        ranked = sorted(by_folder[folder], key=lambda p: hashlib.sha1(os.fsencode(p.name)).digest())
        held_out = max(3, len(ranked) // 10) if len(ranked) >= 9 else len(ranked) // 3
        test += ranked[:held_out]
        validation += ranked[held_out : 2 * held_out]
        train += ranked[2 * held_out :]
    return Collection(tuple(train), tuple(validation), tuple(test))


def split_readable(
    folder: Path, paths: Sequence[Path], unreadable: Mapping[Path, str]
) -> tuple[Collection, set[Path]]:
    """Split a folder's images, without unreadable ones and copies of held-out ones.

    A copy is a training image with the content of a validation or test image, or a validation image
    with that of a test image.

    Args:
        folder: the folder, for messages.
        paths: all images in it.
        unreadable: the unreadable ones, and why.

    Returns:
        The split, and the copies that were left out.

    Raises:
        ValueError: too many images are unreadable, or none is left for training.
    """
    if len(unreadable) > MAX_UNREADABLE * len(paths):
        raise ValueError(_unreadable_message(folder, paths, unreadable))
    # Split before leaving out: a file that becomes unreadable must not move others between splits.
    readable = _without(split(paths), unreadable)
    parts = (readable.train, readable.validation, readable.test)
    rank = {path: number for number, part in enumerate(parts) for path in part}
    copies: set[Path] = set()
    for same in identical_files(rank):
        highest = max(rank[path] for path in same)
        copies.update(path for path in same if rank[path] < highest)
    collection = _without(readable, copies)
    if not collection.train:
        message = f"{folder} contains no training image that is not also a validation or test image"
        raise ValueError(one_line(message))
    return collection, copies


def _without(collection: Collection, left_out: Container[Path]) -> Collection:
    parts = vars(collection).values()
    return Collection(*(tuple(path for path in part if path not in left_out) for part in parts))


def _unreadable_message(folder: Path, paths: Sequence[Path], unreadable: Mapping[Path, str]) -> str:
    message = f"{len(unreadable)} of {len(paths)} images in {folder} are unreadable"
    return _itemize(message, list(unreadable.values()))


def read_collection(folder: Path, cache: Path | None = None) -> Collection:
    """Find, check and split the images of a folder.

    Unreadable files, and training images that are copies of held-out ones, are left out with one
    warning each.

    Args:
        folder: the folder of images.
        cache: directory for a record of the files found readable, in ``checked`` below it; those
            are not checked again until they change.

    Raises:
        ValueError: no such folder, no images in it, or too many of them unreadable.
    """
    paths = find_images(folder)
    unreadable = _find_unreadable(folder, paths, cache)
    collection, copies = split_readable(folder, paths, unreadable)
    if unreadable:
        warnings.warn(_unreadable_message(folder, paths, unreadable), stacklevel=2)
    if copies:
        message = (
            f"{len(copies)} of {len(paths)} images in {folder} are left out, because they are "
            "copies of validation or test images"
        )
        warnings.warn(_itemize(message, sorted(map(str, copies))), stacklevel=2)
    return collection


def _find_unreadable(folder: Path, paths: list[Path], cache: Path | None) -> dict[Path, str]:
    """Check the files that are not on record; return the errors of the unreadable ones.

    Only readable files are recorded, as an error may have a cause that the stamp does not show,
    such as a permission.
    """
    record = cache / "checked" / f"{short_hash(folder)}.json" if cache else None
    known: dict[str, object] = {}
    if record:
        with suppress(OSError, ValueError):  # missing or damaged
            content = json.loads(record.read_text(encoding="utf-8"))
            known = content if isinstance(content, dict) else {}
    stamps = {path: file_stamp(path) for path in paths}
    names = {path: str(path.relative_to(folder)) for path in paths}
    new = [path for path in paths if not stamps[path] or stamps[path] != known.get(names[path])]
    unreadable = {
        path: error for path, error in check_each_file(_read_error, new, folder.name) if error
    }
    readable = {names[path]: stamps[path] for path in paths if path not in unreadable}
    if record and readable != known:
        with suppress(OSError):  # without a record, the next call checks again
            write_atomic(record, json.dumps(readable))
    return unreadable


def check_each_file(
    check: Callable[[Path], T], paths: list[Path], name: str
) -> Iterator[tuple[Path, T]]:
    """Yield each path and the function's result for it, in order; in threads, with progress bar."""
    with ThreadPoolExecutor() as pool:
        results = zip(paths, prefetch_map(pool, check, paths, AHEAD), strict=True)
        yield from tqdm(results, one_line(f"checking {name}"), len(paths), leave=False, delay=2)


def _read_error(path: Path) -> str | None:
    """Return why a file is unreadable, or None. JPEGs are decoded at up to 1/8 size."""
    try:
        read_image(path, at_least=32)
    except ImageError as error:
        return str(error)
    return None
