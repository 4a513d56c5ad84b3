"""Image folders: listing, checks, and the split into training, validation and test images."""

import hashlib
import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from .files import content_hash, file_stamp, one_line, short_hash, write_atomic
from .images import SUFFIXES, ImageError, read_image

T = TypeVar("T")

MIN_HELD_OUT = 3  # images for test and for validation, in a folder of 9 or more
MAX_UNREADABLE = 0.2  # a folder with a larger share of unreadable files is refused
NAMED = 20  # files named in a message
IGNORED = {"__MACOSX", "@eaDir"}  # folders of thumbnails that archives and storage devices add


@dataclass(frozen=True)
class Collection:
    """Image paths for training, model selection (validation) and the reported scores (test)."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]

    #: SHA-256 of the files' content, where known; those of other files are computed when needed.
    digests: Mapping[Path, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def splits(self) -> dict[str, tuple[Path, ...]]:
        """The paths by the name of their split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def distinct(self, *splits: str) -> list[Path]:
        """Return one file of each distinct image in these splits, or in all, ordered by content, so
        that a prefix is a random choice that does not depend on names.
        """
        paths = [path for name in splits or self.splits for path in self.splits[name]]
        by_content = {self.digest(path): path for path in sorted(paths, reverse=True)}
        return [by_content[digest] for digest in sorted(by_content)]

    @cached_property
    def sha256(self) -> str:
        """Hash of the images' content and splits; ignores names, places and times of files."""
        content = {name: sorted(map(self.digest, paths)) for name, paths in self.splits.items()}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def manifest(self) -> dict[str, object]:
        """Return each file's name and SHA-256 per split, and one SHA-256 of all content."""
        files = {
            name: [
                {"name": f"{path.parent.name}/{path.name}", "sha256": self.digest(path)}
                for path in paths
            ]
            for name, paths in self.splits.items()
        }
        return {"sha256": self.sha256, **files}

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content."""
        return self.digests.get(path) or content_hash(path)


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
        raise ValueError(f"there is no folder {folder}")
    if folder in unreadable:
        raise ValueError(f"the folder {folder} cannot be read: {unreadable[folder].strerror}")
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
    return f"{folder} contains no images ({kinds}; subfolders are searched)"


def _itemize(message: str, items: Sequence[str]) -> str:
    more = [f"and {len(items) - NAMED} more"] if len(items) > NAMED else []
    return "\n  ".join([f"{message}:", *items[:NAMED], *more])


def split(digests: Mapping[Path, str]) -> Collection:
    """Split images by the SHA-256 of their content, in hexadecimal, read as a fraction in [0,1).

    Images below 0.1 are test images, those below 0.2 validation images, the rest training images.
    This depends on the content alone: copies are in one split, and no other image moves when some
    are added or removed. The exception is a small folder: where fewer than 3 images (or a third of
    all, if there are fewer than 9) would be in a split, those of the lowest hashes are taken for
    test, the next for validation. One or two images all train.

    Returns:
        The images in the order of their hashes, so that a run does not depend on file names.
    """
    paths: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(digests):
        paths[digests[path]].append(path)
    order = sorted(paths)
    by_content = Counter(map(_split_of, order))
    least = min(MIN_HELD_OUT, len(order) // 3)
    test = min(max(by_content["test"], least), len(order) - 2 * least)
    held_out = max(by_content["test"] + by_content["validation"], test + least)
    held_out = min(held_out, len(order) - least)
    if least == 0:
        test = held_out = 0

    def paths_of(content: Sequence[str]) -> tuple[Path, ...]:
        return tuple(path for digest in content for path in paths[digest])

    return Collection(
        paths_of(order[held_out:]), paths_of(order[test:held_out]), paths_of(order[:test]), digests
    )


def _split_of(digest: str) -> str:
    """Return the split of a content hash by itself."""
    fraction = int(digest[:13], 16) / 16**13
    return "test" if fraction < 0.1 else "validation" if fraction < 0.2 else "train"


def is_small(collection: Collection) -> bool:
    """Return whether a split has fewer than 3 images by their hashes alone, so that added images
    may move others.
    """
    by_content = Counter(map(_split_of, set(collection.digests.values())))
    return any(by_content[name] < MIN_HELD_OUT for name in collection.splits)


def split_readable(
    folder: Path, digests: Mapping[Path, str], unreadable: Mapping[Path, str]
) -> Collection:
    """Split the readable images by their content hashes.

    Raises:
        ValueError: too many others are unreadable.
    """
    if len(unreadable) > MAX_UNREADABLE * (len(digests) + len(unreadable)):
        raise ValueError(_unreadable_message(folder, digests, unreadable))
    return split(digests)


def _unreadable_message(
    folder: Path, digests: Mapping[Path, str], unreadable: Mapping[Path, str]
) -> str:
    total = len(digests) + len(unreadable)
    message = f"{len(unreadable)} of {total} images in {folder} are unreadable"
    return _itemize(message, list(unreadable.values()))


def read_collection(folder: Path, cache: Path | None = None) -> Collection:
    """Find, check and split the images of a folder.

    Unreadable files are left out with one warning. Another warning names a folder that is too small
    for a stable split. Readable files and their content hashes are recorded in ``checked`` below
    ``cache``, and not read again until they change.

    Raises:
        ValueError: no such folder, no images in it, or too many of them unreadable.
    """
    digests, unreadable = _check(folder, find_images(folder), cache)
    collection = split_readable(folder, digests, unreadable)
    if unreadable:
        warnings.warn(_unreadable_message(folder, digests, unreadable), stacklevel=2)
    if is_small(collection):
        splits = (
            f"has only {len(digests)} images, so those of the lowest content hashes are held out: "
            f"{len(collection.test)} for test, {len(collection.validation)} for validation"
            if collection.test
            else "has only one or two distinct images, so all are for training and none is held out"
        )
        advice = "If you add or remove images, others may move between the splits"
        warnings.warn(f"{folder} {splits}. {advice}", stacklevel=2)
    return collection


def _check(
    folder: Path, paths: list[Path], cache: Path | None
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return the content hashes of the readable files, and the errors of the unreadable ones.

    Only readable files are recorded, as an error may have a cause that the stamp does not show,
    such as a permission.
    """
    record = cache / "checked" / f"{short_hash(folder)}.json" if cache else None
    known: dict[str, object] = {}
    if record:
        with suppress(OSError, ValueError):  # missing or damaged
            content = json.loads(record.read_text(encoding="utf-8"))
            known = content if isinstance(content, dict) else {}
    digests: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    names = {path: str(path.relative_to(folder)) for path in paths}
    stamps = {path: file_stamp(path) for path in paths}
    for path in paths:
        match known.get(names[path]):
            case [int(size), int(time), str(digest)] if [size, time] == stamps[path]:
                digests[path] = digest
    new = [path for path in paths if path not in digests]
    for path, (digest, error) in check_each_file(_digest_or_error, new, folder.name):
        (unreadable if error else digests)[path] = error or digest
    readable = {names[path]: [*(stamps[path] or ()), digests[path]] for path in sorted(digests)}
    if record and readable != known:
        with suppress(OSError):  # without a record, the next call checks again
            write_atomic(record, json.dumps(readable))
    return digests, unreadable


def check_each_file(
    check: Callable[[Path], T], paths: list[Path], name: str
) -> Iterator[tuple[Path, T]]:
    """Yield each path and the function's result for it, in order; in threads, with progress bar."""
    with ThreadPoolExecutor() as pool:
        results = zip(paths, pool.map(check, paths), strict=True)
        yield from tqdm(results, one_line(f"checking {name}"), len(paths), leave=False, delay=2)


def _digest_or_error(path: Path) -> tuple[str, str]:
    """Return a file's content hash, or why it is unreadable; JPEGs are decoded at 1/8 size."""
    try:
        read_image(path, at_least=32)
        return content_hash(path), ""
    except (ImageError, OSError) as error:
        return "", str(error)
