"""Folders of pictures: what is in them, how they are split, and a manifest to prove it."""

import hashlib
import json
import os
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm.auto import tqdm

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


def read_collection(folder: Path) -> Collection:
    """Find, check and split the pictures of a folder.

    Unreadable files are named in one warning and left out.

    Raises:
        ValueError: no folder, no pictures, or too many of them unreadable.
    """
    paths = find_pictures(folder)
    with ThreadPoolExecutor() as pool:
        checks = pool.map(_complaint, paths)
        bar = tqdm(checks, f"checking {folder.name}", total=len(paths), leave=False, delay=2)
        complaints = {
            path: complaint for path, complaint in zip(paths, bar, strict=True) if complaint
        }
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


def _complaint(path: Path) -> str | None:
    """Why a file is unreadable, or None. JPEGs are decoded at 1/8 size, which finds truncation."""
    try:
        read_image(path, at_least=32)
    except ValueError as error:
        return str(error)
    return None
