"""The images that a run or a study was made with: recognized by content, wherever they are."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import Collection


def read_record(file: Path) -> dict[str, Any]:
    """Return the ``Collection.manifest`` of photos and paintings; empty if absent or damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for kind in ("photos", "paintings"):
            str(record[kind]["sha256"]), _contents(record[kind])
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
            old, new = _contents(record[kind]), _contents(collection.manifest())
            raise ValueError(
                f"the {kind} are not those that {file.parent} was made with "
                f"({(new - old).total()} added, {(old - new).total()} removed); {advice}"
            )


def _contents(manifest: Mapping[str, Any]) -> Counter[str]:
    """Count the SHA-256 of the files of a manifest."""
    splits = ("train", "validation", "test")
    return Counter(str(file["sha256"]) for split in splits for file in manifest[split])
