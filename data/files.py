"""Atomic file writes, locks and file identity."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

DAY = 86_400.0  # seconds; longer than any write takes


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file atomically: after a crash it holds the whole old or the whole new content."""
    with temporary_path(path) as file:
        if isinstance(content, str):  # which may contain the name of a file in any bytes
            content = content.encode(errors="backslashreplace")
        file.write(content)


@contextmanager
def temporary_path(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``. On success it is synced and renamed to ``path``; on an
    error it is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)  # a link of that name must not be followed
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Add the file's name to system errors raised inside, as a full disk reports none."""
    try:
        yield
    except OSError as error:
        if error.errno:  # raised by the system, not by this package
            error.filename = str(path)
        raise


def remove_stale_parts(folder: Path, older_than: float = 0.0) -> None:
    """Remove temporary files of killed writers from a folder, if at least this many seconds old."""
    for temporary in folder.glob(".*.[0-9]*.part"):
        with suppress(OSError):  # another process removed it
            if time.time() - temporary.stat().st_mtime >= older_than:
                temporary.unlink()


class BusyError(ValueError):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that is released when this process ends, even if it is killed; POSIX only.

    Raises:
        BusyError: another process holds the lock.
    """
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        if os.name == "posix":
            import fcntl

            try:  # not flock, whose lock would outlive a killed process in its forked children
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process is at work in {path.parent}") from None
        yield


def file_stamp(path: Path) -> list[int] | None:
    """Return size and modification time, which change with the content; None for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def short_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits that identify a folder's absolute path."""
    return hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]


def one_line(text: str) -> str:
    """Escape unprintable characters, such as a newline in a file's name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
