"""The images that a run or a study was made with: recognized by content, wherever they are."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import one_line
from .folders import Collection


def read_record(file: Path) -> dict[str, Any]:
    """Return the ``Collection.manifest`` of photos and paintings; empty if absent or damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for kind in ("photos", "paintings"):
            str(record[kind]["sha256"]), _files(record[kind])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return record


def check_images(file: Path, images: Mapping[str, Collection], advice: str) -> None:
    """Check that photos and paintings have the content that is recorded in a file, if it exists.

    Raises:
        ValueError: images were added, removed or changed; other names or folders are fine.
    """
    record = read_record(file)
    for kind, collection in images.items():
        if record and record[kind]["sha256"] != collection.sha256:
            counts = changes(record[kind], collection.manifest())
            message = f"the {kind} are not those that {file.parent} was made with ({counts})"
            raise ValueError(one_line(f"{message}; {advice}"))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return how many images were added, removed and changed between two manifests."""
    old, new = _files(before), _files(after)
    contents = dict(old), dict(new)
    removed = Counter(name for digest, name in old if digest not in contents[1])
    added = Counter(name for digest, name in new if digest not in contents[0])
    changed = (removed & added).total()  # other content under the same name
    return (
        f"{added.total() - changed} added, {removed.total() - changed} removed, {changed} changed"
    )


def _files(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the files of a manifest as (SHA-256, name without folder)."""
    return [
        (str(file["sha256"]), str(file["name"]).rpartition("/")[2])
        for side in ("train", "validation", "test")
        for file in manifest[side]
    ]
