import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.data import files
from underdrawing.data.files import (
    file_stamp,
    identical_files,
    locked,
    one_line,
    remove_stale_parts,
    short_hash,
    write_atomic,
)


@pytest.mark.parametrize("content", ["λ ρ σ\n", b"\x00\xff\r\n"])
def test_written_content_is_as_given(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_atomic(path, "something else, longer than the new content")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def _full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def _interrupted(path: Path, target: Path) -> Path:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "method", "replacement", "error"),
    [(os, "fsync", _full, OSError), (Path, "replace", _interrupted, KeyboardInterrupt)],
)
def test_a_failing_write_leaves_the_old_file(
    owner: object, method: str, replacement: Callable[..., object], error: type[BaseException],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(owner, method, replacement)
    with pytest.raises(error):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_swept_away_when_old_enough(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.1.part", ".b.2.part", "c.part"))
    for path in (old, new, other):
        path.touch()
    past = time.time() - 100
    os.utime(old, (past, past))
    remove_stale_parts(tmp_path, older_than=50)
    assert set(tmp_path.iterdir()) == {new, other}
    remove_stale_parts(tmp_path)
    assert set(tmp_path.iterdir()) == {other}


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX's")
def test_a_lock_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from underdrawing.data.files import locked\n"
        "with locked(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", other, str(tmp_path / "run" / ".lock")]
    with locked(tmp_path / "run" / ".lock"):
        refused = subprocess.run(command, capture_output=True, text=True)
    assert "another process is at work in" in refused.stderr
    assert subprocess.run(command).returncode == 0


def test_a_stamp_is_of_the_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(3, 4))
    assert file_stamp(path) == [5, 4]
    assert file_stamp(tmp_path / "nowhere.png") is None


def test_a_folder_has_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_hash(Path("a")) == short_hash(tmp_path / "a") != short_hash(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain λ 絵", "plain λ 絵"),
        ("two\nlines\x1b", r"two\nlines\x1b"),
        ("\udcff", r"\udcff"),
        ("\u202e", r"\u202e"),
    ],
)
def test_a_message_is_one_line_that_prints(text: str, line: str) -> None:
    assert one_line(text) == line
    line.encode()


def test_files_of_the_same_bytes_are_found(tmp_path: Path) -> None:
    end = bytes(5000)  # longer than the end that is compared first
    contents = [b"", b"a", b"b", b"a", b"", b"x" + end, b"y" + end, b"x" + end, b"xx" + end]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    gone = tmp_path / "gone"
    groups = identical_files([*paths, gone])
    assert groups == [[paths[0], paths[4]], [paths[1], paths[3]], [paths[5], paths[7]]]


def test_files_whose_size_is_their_own_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        (tmp_path / str(number)).write_bytes(bytes(number))
    monkeypatch.setattr(files, "_tail", lambda path: pytest.fail(f"{path} is read"))
    assert identical_files(tmp_path.iterdir()) == []
