import shutil
import subprocess
from pathlib import Path

import pytest
from underdrawing.trainers import tracking


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git on this machine")
def test_provenance_has_the_commit_of_a_checkout_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
        command = ["git", "-C", str(tmp_path), *author, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def recorded() -> str | None:
        tracking.commit.cache_clear()
        commit: str | None = tracking.provenance()["commit"]
        return commit

    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "trainers" / "tracking.py"))
    assert recorded() is None
    git("init")
    assert recorded() is None  # without a commit
    (tmp_path / "code.py").write_text("a = 1")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "release")
    assert recorded() == git("rev-parse", "HEAD")
    (tmp_path / "code.py").write_text("a = 2")
    assert recorded() == git("rev-parse", "HEAD") + "-dirty"
    tracking.commit.cache_clear()
