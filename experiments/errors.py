"""Map expected exceptions to one-line user messages."""

import errno
import re

from pydantic import ValidationError

from ..trainers.config import validation_message
from ..trainers.runtime import out_of_memory

#: How to reduce the memory of a command.
LESS_MEMORY = {
    "train": "lower --size or --batch-size, or raise --accumulate",
    "reproduce": "lower --size or --batch-size",
    "ablate": "lower --size or --batch-size",
    "stylize": "use a smaller photo",
    "video": "use a smaller clip",
    "evaluate": "lower --size",
    "robustness": "lower --size",
    "benchmark": "lower --sizes or --batch",
}
ADVICE = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EEXIST: "it is a file, not a folder: choose another path",
    errno.ENOTDIR: "a part of it is a file, not a folder: choose another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or lower --workers",
}
WORKER_KILLED = re.compile(r"DataLoader worker|shared memory|</torch_")
PROCESS_LOST = re.compile(r"gloo/|Connection (closed|reset) by|Broken pipe|NCCL|TCPStore")
TIMEOUT = re.compile(r"[Tt]imed out|[Tt]imeout")


def explain_error(error: Exception, command: str) -> str | None:
    """Return what happened and what to do, for an exception of a command; None for a bug."""
    if isinstance(error, ValidationError):
        return validation_message(error)
    text = str(error)
    if "Original Traceback" in text:  # re-raised from a DataLoader worker
        text = text.rstrip().rsplit("\n", 1)[-1].partition(": ")[2]
    if isinstance(error, ValueError):
        return text
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
        advice = ADVICE.get(error.errno or 0)
        return f"{reason}; {advice}" if advice else reason
    if isinstance(error, OSError) or out_of_memory(error):
        return f"out of memory: {LESS_MEMORY.get(command, 'process less at a time')}"
    if WORKER_KILLED.search(text):
        return (
            "a DataLoader worker was killed, probably out of memory or /dev/shm: "
            "lower --workers and run the same command again"
        )
    if PROCESS_LOST.search(text):
        problem = "does not answer" if TIMEOUT.search(text) else "has died (see its own message)"
        return (
            f"another process of this run {problem}; the last checkpoint is kept: "
            "run the same command again"
        )
    return None
