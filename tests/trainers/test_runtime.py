import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from underdrawing.trainers import memory
from underdrawing.trainers.runtime import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

#: Page faults of writing 64 MiB anew after 64 MiB were freed, first as it is by default.
FAULTS = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)

def faults():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = b"x" * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
memory.keep_freed_memory()
print(default, faults())
"""


class Library:
    """A C library that writes down what it is told."""

    def __init__(self) -> None:
        self.cond_strength: list[tuple[int, int]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.cond_strength.append((option, value))
        return 1


@pytest.mark.parametrize("times", [1, 2])
def test_it_says_the_same_each_time(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    for _ in range(times):
        keep_freed_memory()
    assert library.cond_strength == times * [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)]


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Other:
        def __getattr__(self, name: str) -> None:
            asked.append(name)
            raise AttributeError(name)  # as ctypes says it

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    keep_freed_memory()
    assert asked == ["mallopt"]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_alone(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    keep_freed_memory()
    assert library.cond_strength == []


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory"
)
def test_freed_memory_is_used_again() -> None:
    command = [sys.executable, "-c", FAULTS, str(Path(memory.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    default, kept = map(int, done.stdout.split())
    assert kept < default / 4
