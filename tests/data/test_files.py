import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.data.files import (
    BusyError,
    locked,
    one_line,
    remove_stale_parts,
    write_atomic,
)


@pytest.mark.parametrize("content", ["λ ρ σ\n", b"\x00\xff\r\n"])
def test_write_atomic_replaces_the_file(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_atomic(path, "old content, longer than the new")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_names_of_files_that_are_no_valid_text_are_escaped(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "images of " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "file").read_text() == r"images of caf\udce9"
    assert one_line("λ 絵 two\nlines\x1b \udcff") == r"λ 絵 two\nlines\x1b \udcff"


def _disk_full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def _interrupted(path: Path, target: Path) -> Path:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "method", "replacement", "error"),
    [(os, "fsync", _disk_full, OSError), (Path, "replace", _interrupted, KeyboardInterrupt)],
)
def test_failed_write_keeps_the_old_file(
    owner: object, method: str, replacement: Callable[..., object], error: type[BaseException],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(owner, method, replacement)
    with pytest.raises(error) as caught:
        write_atomic(path, "new")
    monkeypatch.undo()
    assert getattr(caught.value, "filename", str(path)) == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_remove_stale_parts_removes_old_temporary_files_only(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.1.part", ".b.2.part", "c.part"))
    for path in (old, new, other):
        path.touch()
    past = time.time() - 100
    os.utime(old, (past, past))
    remove_stale_parts(tmp_path, older_than=50)
    assert set(tmp_path.iterdir()) == {new, other}
    remove_stale_parts(tmp_path)
    assert set(tmp_path.iterdir()) == {other}


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX only")
def test_a_lock_of_a_process_is_released_when_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from underdrawing.data.files import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(BusyError, match=r"another process is at work in .*run"), locked(path):
            pass
        process.kill()
    with locked(path):
        pass
