"""Files on disk: written whole or not at all, and told apart when they change."""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

DAY = 86_400.0  # seconds; no writing takes as long
TAIL = 4096  # bytes at a file's end, which tell most files of one size apart


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file temporary_path, sync it, rename it into place: after a crash it is the old one or the
    new one, whole.
    """
    with temporary_path(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def temporary_path(path: Path) -> Iterator[BinaryIO]:
    """What is written within goes to a file temporary_path, which takes the place of ``path`` at the end."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.unlink(missing_ok=True)  # what lies there, maybe a link, is not followed
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Within it, what the system refuses is said of this file: a full disk names none itself."""
    try:
        yield
    except OSError as error:
        if error.errno:  # the system's own, not a sentence of ours
            error.filename = str(path)
        raise


class BusyError(ValueError):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends; on POSIX only.

    Raises:
        BusyError: another process holds it.
    """
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        if os.name == "posix":
            import fcntl

            try:  # not flock, whose lock a killed process's children would go on holding
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process is at work in {path.parent}") from None
        yield


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_stale_parts(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed writers left aside in a folder, if it is this many seconds old."""
    for partial in folder.glob(".*.[0-9]*.part"):
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


def one_line(text: str) -> str:
    """A message with whatever in it would not print, like a newline in a file's name, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of two or more files that hold the same bytes, each in the order given.

    Files whose size or end is their own are not read; those that cannot be read are left out.
    """
    groups = [list(paths)]
    for key in (_size, _tail, _digest):
        groups = [alike for group in groups for alike in _grouped(group, key)]
    return groups


def _grouped(paths: list[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    groups: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
