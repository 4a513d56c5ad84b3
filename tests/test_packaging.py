"""The wheel holds ``underdrawing/…`` only, and works outside the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import underdrawing

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "losses", "data", "metrics", "trainers", "experiments", "pretrained")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy in a folder whose name is not a Python identifier."""
    copy = tmp_path_factory.mktemp("build") / "underdrawing-main"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "runs", "results", "__pycache__"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (copy / "dist").iterdir()
    return path


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {
        name.removeprefix("underdrawing/")
        for name in zipfile.ZipFile(wheel).namelist()
        if ".dist-info/" not in name
    }
    package = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == package | {"__init__.py", "py.typed"}


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site'); import underdrawing; "
        "assert 'torch' not in sys.modules, 'importing the package imports torch'; "
        "assert underdrawing.__file__.startswith(sys.argv[1]); "
        "import inspect; print(inspect.getfile(underdrawing.Generator)); "
        "from underdrawing.experiments.main import main; "
        "sys.argv = ['underdrawing', '--help']; main()"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "reproduce" in done.stdout


def test_public_names() -> None:
    assert all(getattr(underdrawing, name) is not None for name in underdrawing.__all__)
    assert set(underdrawing._PUBLIC) == set(underdrawing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = underdrawing.nothing
