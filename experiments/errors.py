"""Why a command could not go on, in one sentence, where it is no mistake of ours."""

import errno
import re

from ..trainers.runtime import out_of_memory

#: What takes less memory, by command.
LOWER = {
    "train": "lower --size or --batch-size, or raise --accumulate",
    "reproduce": "lower --size or --batch-size",
    "ablate": "lower --size or --batch-size",
    "stylize": "make the photo smaller",
    "video": "make the clip smaller",
    "evaluate": "lower --size",
    "robustness": "lower --size",
    "benchmark": "lower --sizes or --batch",
}
ADVICE = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or lower --workers",
}
LOST_LOADER = re.compile(r"DataLoader worker|shared memory|</torch_")
LOST_PROCESS = re.compile(r"gloo/|Connection (closed|reset) by|Broken pipe|NCCL|TCPStore")
TIMEOUT = re.compile(r"[Tt]imed out|[Tt]imeout")


def explain_error(error: Exception, command: str) -> str | None:
    """What happened and what to do; None for a bug, whose traceback is wanted.

    Args:
        error: what a command raised.
        command: its name.
    """
    text = str(error)
    if "Original Traceback" in text:  # raised in a loader's process
        text = text.rstrip().rsplit("\n", 1)[-1].partition(": ")[2]
    if isinstance(error, ValueError):
        return text
    if isinstance(error, OSError):
        return _system(error, text)
    if out_of_memory(error):
        return f"there is not enough memory: {LOWER.get(command, 'try less at a time')}"
    if LOST_LOADER.search(text):
        return (
            "a loader process was killed, most likely for want of memory (or of room in /dev/shm): "
            "lower --workers and run the same command again"
        )
    if LOST_PROCESS.search(text):
        what = "does not answer" if TIMEOUT.search(text) else "has died; its own message says why"
        return (
            f"another process of this run {what}; the last checkpoint is kept: "
            "run the same command again"
        )
    return None


def _system(error: OSError, text: str) -> str:
    """The file, the system's reason, and what to do about it."""
    reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
    advice = ADVICE.get(error.errno or 0)
    return f"{reason}; {advice}" if advice else reason
