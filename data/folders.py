"""Folders of pictures: what is in them, how they are split, and a manifest to prove it."""

import hashlib
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from .files import file_stamp, identical_files, one_line, short_hash, write_atomic
from .images import SUFFIXES, read_image
from .prefetch import prefetch_map

T = TypeVar("T")

MAX_UNREADABLE = 0.2  # a folder with a larger share of bad files is refused
AHEAD = 64  # files looked at before their turn
NAMED = 20  # files named in a message
#: Folders of thumbnails and the like, which archives and storage devices leave behind.
LITTER = {"__MACOSX", "@eaDir"}


@dataclass(frozen=True)
class Collection:
    """Pictures, split for training, choosing and the final score."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]

    def manifest(self) -> dict[str, object]:
        """Names and sizes per split, with one sha256 over all of it."""
        splits = {
            split: [
                {"name": f"{path.parent.name}/{path.name}", "bytes": _size(path)} for path in paths
            ]
            for split, paths in asdict(self).items()
        }
        digest = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
        return {"sha256": digest, **splits}


def _size(path: Path) -> int | None:
    stamp = file_stamp(path)
    return stamp[0] if stamp else None  # it has vanished


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and below, links followed, hidden files and folders left out."""

    pictures: list[Path]  # by their suffix; sorted
    others: list[Path]
    closed: dict[Path, OSError]  # folders that may not be read


def list_folder(folder: Path) -> Listing:
    """List a folder; each folder in it once, by whatever links it is reached.

    Raises:
        ValueError: there is no such folder, or it may not be read.
    """
    closed: dict[Path, OSError] = {}
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        closed[Path(error.filename)] = error

    for root, folders, names in os.walk(folder, onerror=note, followlinks=True):
        status = Path(root).stat()
        place = status.st_dev, status.st_ino
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in LITTER)
        files += [Path(root, name) for name in names if name[0] != "."]
    if isinstance(closed.get(folder), FileNotFoundError | NotADirectoryError):
        raise ValueError(one_line(f"there is no folder {folder}"))
    if folder in closed:
        text = f"the folder {folder} cannot be read: {closed[folder].strerror}"
        raise ValueError(one_line(text))
    files.sort()
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    return Listing(
        pictures, [path for path in files if path.suffix.lower() not in SUFFIXES], closed
    )


def find_images(folder: Path) -> list[Path]:
    """All files in the folder and below that are named like pictures, sorted.

    Folders in it that may not be read are named in one warning.

    Raises:
        ValueError: the folder does not exist, may not be read or holds no picture.
    """
    listing = list_folder(folder)
    if listing.closed:
        names = [f"{path}: {error.strerror}" for path, error in listing.closed.items()]
        warnings.warn(_with_names(f"some folders in {folder} cannot be read", names), stacklevel=2)
    if not listing.pictures:
        raise ValueError(no_images_message(folder))
    return listing.pictures


def no_images_message(folder: Path) -> str:
    """What to say of a folder without any."""
    kinds = ", ".join(sorted(SUFFIXES))
    return one_line(f"{folder} holds no pictures (looked for {kinds}, also in subfolders)")


def _with_names(sentence: str, names: list[str]) -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return "\n  ".join(one_line(line) for line in [f"{sentence}:", *names[:NAMED], *more])


def split(paths: list[Path]) -> Collection:
    """Split per folder by the rank of the SHA-1 of the file's name.

    The first tenth (at least 3) is test, the next as many validation, the rest training; in a
    folder of fewer than 9 pictures a third each is set temporary_path, so one or two all train.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    parts: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for folder in sorted(by_folder):
        ranked = sorted(by_folder[folder], key=lambda p: hashlib.sha1(os.fsencode(p.name)).digest())
        held = max(3, len(ranked) // 10) if len(ranked) >= 9 else len(ranked) // 3
        for part, chosen in zip(
            parts, (ranked[2 * held :], ranked[held : 2 * held], ranked[:held]), strict=True
        ):
            part.extend(chosen)
    train, validation, test = (tuple(part) for part in parts)
    return Collection(train, validation, test)


def held_out_copies(collection: Collection) -> set[Path]:
    """Training pictures that are, byte for byte, validation or test ones, and validation pictures
    that are test ones.
    """
    parts = (collection.train, collection.validation, collection.test)
    rank = {path: number for number, part in enumerate(parts) for path in part}
    copies: set[Path] = set()
    for alike in identical_files(rank):
        highest = max(rank[path] for path in alike)
        copies.update(path for path in alike if rank[path] < highest)
    return copies


def divide(
    folder: Path, paths: list[Path], unreadable: Mapping[Path, str]
) -> tuple[Collection, set[Path]]:
    """Split the pictures of a folder; what is unreadable or a copy of a held-out one is left out.

    Args:
        folder: the pictures', for messages.
        paths: all pictures.
        unreadable: those that are, and why.

    Returns:
        The split, and the copies.

    Raises:
        ValueError: too many are unreadable, or none is left for training.
    """
    if len(unreadable) > MAX_UNREADABLE * len(paths):
        raise ValueError(_unreadable(folder, paths, unreadable))
    # Split first: a file that turns unreadable must not move the others between the splits.
    readable = _without(split(paths), unreadable)
    copies = held_out_copies(readable)
    collection = _without(readable, copies)
    if not collection.train:
        text = f"{folder} holds no picture for training that is not also a validation or test one"
        raise ValueError(one_line(text))
    return collection, copies


def _without(collection: Collection, left_out: Container[Path]) -> Collection:
    parts = (collection.train, collection.validation, collection.test)
    return Collection(*(tuple(path for path in part if path not in left_out) for part in parts))


def _unreadable(folder: Path, paths: list[Path], health_warnings: Mapping[Path, str]) -> str:
    sentence = f"{len(health_warnings)} of {len(paths)} pictures in {folder} are unreadable"
    return _with_names(sentence, list(health_warnings.values()))


def read_collection(folder: Path, cache: Path | None = None) -> Collection:
    """Find, check and split the pictures of a folder.

    Unreadable files are named in one warning and left out; so are training pictures that are also
    validation or test pictures under another name.

    Args:
        folder: where the pictures are.
        cache: folder under which a record of the files found good is kept, in `checked`; those
            are not checked again until they change.

    Raises:
        ValueError: no folder, no pictures, or too many of them unreadable.
    """
    paths = find_images(folder)
    health_warnings = _complaints(folder, paths, cache)
    collection, copies = divide(folder, paths, health_warnings)
    if health_warnings:
        warnings.warn(_unreadable(folder, paths, health_warnings), stacklevel=2)
    if copies:
        sentence = (
            f"{len(copies)} of {len(paths)} pictures in {folder} are left out, because they are "
            "copies of pictures set aside for validation or test"
        )
        warnings.warn(_with_names(sentence, sorted(map(str, copies))), stacklevel=2)
    return collection


def _complaints(folder: Path, paths: list[Path], cache: Path | None) -> dict[Path, str]:
    """Why files are unreadable. Only the good ones are recorded: a complaint may be about
    something that their stamp does not show, like a permission.
    """
    record = cache / "checked" / f"{short_hash(folder)}.json" if cache else None
    known = _read_record(record) if record else {}
    stamps = {path: file_stamp(path) for path in paths}
    names = {path: str(path.relative_to(folder)) for path in paths}
    news = [path for path in paths if not stamps[path] or stamps[path] != known.get(names[path])]
    health_warnings = _check(news, folder.name)
    good = {names[path]: stamps[path] for path in paths if path not in health_warnings}
    if record and good != known:
        with suppress(OSError):  # without a record, the next call checks again
            write_atomic(record, json.dumps(good))
    return health_warnings


def _read_record(record: Path) -> dict[str, object]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a damaged one
        return {}
    return content if isinstance(content, dict) else {}


def _check(paths: list[Path], name: str) -> dict[Path, str]:
    """Decode all files; the complaints about the unreadable ones."""
    styles = check_each_file(_complaint, paths, name)
    return {path: complaint for path, complaint in styles if complaint}


def check_each_file(
    look: Callable[[Path], T], paths: list[Path], name: str
) -> Iterator[tuple[Path, T]]:
    """Each file and what a function makes of it, in order, in threads, under a progress bar."""
    with ThreadPoolExecutor() as pool:
        styles = zip(paths, prefetch_map(pool, look, paths, AHEAD), strict=True)
        yield from tqdm(styles, one_line(f"checking {name}"), len(paths), leave=False, delay=2)


def _complaint(path: Path) -> str | None:
    """Why a file is unreadable, or None. JPEGs are decoded at 1/8 size, which finds truncation."""
    try:
        read_image(path, at_least=32)
    except ValueError as error:
        return str(error)
    return None
