"""Ctrl-C and SIGTERM end a run between two steps, never inside one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGINT or SIGTERM arrives; a second one kills as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for received_signal, handler in previous.items():
            signal.signal(received_signal, handler)
