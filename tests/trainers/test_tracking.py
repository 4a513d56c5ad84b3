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
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def recorded() -> str | None:
        tracking.commit.cache_clear()
        commit: str | None = tracking.provenance()["commit"]
        tracking.commit.cache_clear()
        return commit

    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "trainers" / "tracking.py"))
    assert recorded() is None
    git("init")
    (tmp_path / "code.py").write_text("a = 1")
    git("add", ".")
    git("commit", "-m", "first")
    assert recorded() == git("rev-parse", "HEAD")
    (tmp_path / "code.py").write_text("a = 2")
    assert recorded() == git("rev-parse", "HEAD") + "-dirty"
