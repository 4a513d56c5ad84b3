"""Folders of pictures: what is in them, how they are split, and a manifest to prove it."""

import hashlib
import json
import os
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm.auto import tqdm

from .files import file_stamp, short_hash, write_atomic
from .images import SUFFIXES, read_image

MAX_UNREADABLE = 0.2  # a folder with a larger share of bad files is refused


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
                {"name": f"{path.parent.name}/{path.name}", "bytes": path.stat().st_size}
                for path in paths
            ]
            for split, paths in asdict(self).items()
        }
        digest = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
        return {"sha256": digest, **splits}


def find_pictures(folder: Path) -> list[Path]:
    """All files in the folder and below that are named like pictures, sorted.

    Raises:
        ValueError: the folder does not exist or holds no picture.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found = [
        Path(root) / name
        for root, _, names in os.walk(folder)  # does not follow links, so no loops
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} holds no pictures (looked for {kinds}, also in subfolders)")
    return sorted(found)


def split(paths: list[Path]) -> Collection:
    """Split per folder by the rank of the SHA-1 of the file's name.

    The first tenth (at least 3) is test, the next as many validation, the rest training; in a
    folder of fewer than 9 pictures a third each is set aside, so one or two all train.
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


def read_collection(folder: Path, cache: Path | None = None) -> Collection:
    """Find, check and split the pictures of a folder.

    Unreadable files are named in one warning and left out.

    Args:
        folder: where the pictures are.
        cache: folder under which a record of the files found good is kept, in `checked`; those
            are not checked again until they change.

    Raises:
        ValueError: no folder, no pictures, or too many of them unreadable.
    """
    paths = find_pictures(folder)
    complaints = _complaints(folder, paths, cache)
    if complaints:
        listing = "\n  ".join(list(complaints.values())[:20])
        summary = (
            f"{len(complaints)} of {len(paths)} pictures in {folder} are unreadable:\n  {listing}"
        )
        if len(complaints) > MAX_UNREADABLE * len(paths):
            raise ValueError(summary)
        warnings.warn(summary, stacklevel=2)
    # Split first: a file that turns unreadable must not move the others between the splits.
    whole = split(paths)
    return replace(
        whole,
        **{
            name: tuple(path for path in part if path not in complaints)
            for name, part in vars(whole).items()
        },
    )


def _complaints(folder: Path, paths: list[Path], cache: Path | None) -> dict[Path, str]:
    """Why files are unreadable. Only the good ones are recorded: a complaint may be about
    something that their stamp does not show, like a permission.
    """
    record = cache / "checked" / f"{short_hash(folder)}.json" if cache else None
    known = _read_record(record) if record else {}
    stamps = {path: file_stamp(path) for path in paths}
    names = {path: str(path.relative_to(folder)) for path in paths}
    news = [path for path in paths if not stamps[path] or stamps[path] != known.get(names[path])]
    complaints = _check(news, folder.name)
    good = {names[path]: stamps[path] for path in paths if path not in complaints}
    if record and good != known:
        with suppress(OSError):  # without a record, the next call checks again
            write_atomic(record, json.dumps(good))
    return complaints


def _read_record(record: Path) -> dict[str, object]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a damaged one
        return {}
    return content if isinstance(content, dict) else {}


def _check(paths: list[Path], name: str) -> dict[Path, str]:
    """Decode all files; the complaints about the unreadable ones."""
    with ThreadPoolExecutor() as pool:
        checks = pool.map(_complaint, paths)
        bar = tqdm(checks, f"checking {name}", total=len(paths), leave=False, delay=2)
        return {path: complaint for path, complaint in zip(paths, bar, strict=True) if complaint}


def _complaint(path: Path) -> str | None:
    """Why a file is unreadable, or None. JPEGs are decoded at 1/8 size, which finds truncation."""
    try:
        read_image(path, at_least=32)
    except ValueError as error:
        return str(error)
    return None
