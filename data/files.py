"""Files on disk: written whole or not at all, and told apart when they change."""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file aside, sync it, rename it into place: after a crash it is the old one or the
    new one, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed writers left aside in a folder, if it is this many seconds old."""
    for partial in folder.glob(".*.part"):
        with suppress(OSError):  # another process has swept it away
            if time.time() - partial.stat().st_mtime >= older_than:
                partial.unlink()


def file_stamp(path: Path) -> list[int] | None:
    """What changes when a file does: its size and time of change; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def short_hash(folder: Path) -> str:
    """A folder's place on this machine, as a name for what is kept about it."""
    return hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
