"""Every command and Python example of the README and docs runs, on tiny images and models."""

import csv
import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from underdrawing.experiments import benchmark, export
from underdrawing.experiments.demo import app
from underdrawing.experiments.main import main
from underdrawing.experiments.scoring import networks
from underdrawing.experiments.timing import timer, workloads
from underdrawing.models import pretrained
from underdrawing.trainers.config import GeneratorConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: The files that stand in for the capitals of the commands.
FILES = {
    "PHOTOS": "photos", "PAINTINGS": "paintings", "PHOTO": "photo.png", "PAINTING": "painting.png",
    "RUN": "runs/mine", "THEIRS": "theirs", "CLIP": "clip.mp4",
}  # fmt: skip
FOLDERS = "--photos photos --paintings paintings --workers 0"
NETWORK = "--generator.width 8 --generator.blocks 1"
SHORT = (
    "--init None --warmup 1 --steps 1 --size 32 --batch-size 2 --seeds 1 --pairs 2 --strengths 1"
)
STUDY = f"{FOLDERS} {NETWORK} {SHORT}"
COMMAND = r"^(?:cat \S+ \| )?underdrawing .+$"
#: Options that make a command short; the last of two equal options counts.
TINY = {
    "train": f"{FOLDERS} {NETWORK} --steps 2 --size 32 --batch-size 2",
    "reproduce": f"{STUDY} --out runs/table",
    "ablate": f"{STUDY} --out runs/table",
    "evaluate": "--pairs 2 --size 32",
    "robustness": "--images 2",
    "app": "--port 17860",
    "benchmark": f"--parts stylize --sizes 32 --reference False {NETWORK}",
}


def shell_blocks(page: Path) -> str:
    """The contents of the page's ``sh`` blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ")


def commands() -> list[str]:
    """All shell lines that run a command of ours."""
    lines = [
        line for page in PAGES
        for line in re.findall(COMMAND, shell_blocks(page), re.MULTILINE)
    ]  # fmt: skip
    return list(dict.fromkeys(lines))


@pytest.fixture(scope="module")
def workshop(
    cache: Path,
    folders: tuple[Path, Path],
    write_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A working directory with all files that the commands name; weights are random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERDRAWING_CACHE", str(cache))
        patch.setattr(pretrained, "_from_torchvision", lambda name: None)
        patch.setattr(networks, "_lite0", lambda *_: None)
        patch.setattr(export, "CHECKED_SIZES", ((1, 64, 96, 1),))  # others: test_export.py
        patch.setattr(export, "LARGE_SIZE", (1, 96, 64, 1))
        patch.setattr(benchmark, "in_fresh_process", lambda f, *arguments: f(*arguments))
        patch.setattr(workloads, "keep_freed_memory", lambda: None)
        patch.setattr(timer, "MATRIX", 128)
        patch.chdir(tmp_path_factory.mktemp("workshop"))
        for name, folder in zip(("photos", "paintings"), folders, strict=True):
            shutil.copytree(folder, name)
        Path("more").mkdir()
        images = ("photo.png", "photo.jpg", "painting.png", "painting.jpg", "starry.jpg", "a.jpg",
                  "b.jpg", "more/one.jpg")  # fmt: skip
        for number, name in enumerate(images):
            image(number).save(name)
        for name in ("mask.png", "regions.png"):
            Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(name)
        config = TrainConfig(
            photos=Path("photos"), paintings=Path("paintings"), out=Path("runs/mine"), size=32,
            generator=GeneratorConfig(width=8, blocks=1),
        )  # fmt: skip
        write_model(config)
        assert run("evaluate runs/mine --write-manifest pairs.csv --pairs 2") == 0
        Path("theirs").mkdir()
        for pair in csv.DictReader(Path("pairs.csv").read_text().splitlines()):
            Image.open(pair["photo"]).rotate(180).save(Path("theirs") / pair["output"])
        yield Path.cwd()


def image(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((56, 48), Image.Resampling.BICUBIC)


def run(command: str) -> int:
    """Exit code of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["underdrawing", *shlex.split(command, comments=True)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0


class Closing:
    """Replaces the event that keeps the demo open."""

    def wait(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize("line", commands())
def test_documented_command_runs(
    line: str, clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "Event", Closing)
    source, _, command = line.rpartition("underdrawing ")
    command, _, target = command.partition("#")[0].partition(" > ")
    command = re.sub(r"\b[A-Z]{3,}\b", lambda word: FILES.get(word[0], word[0]), command)
    words = shlex.split(command)
    if "clip.mp4" in words:
        shutil.copy(clip("clip.mp4"), ".")
    if source:
        photo = io.BytesIO(Path(source.split()[1]).read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(photo))
    written = io.TextIOWrapper(io.BytesIO())
    if target:
        monkeypatch.setattr(sys, "stdout", written)
    closed = 130 if words[0] == "app" else 0
    options = TINY.get(words[0], "")
    if words[0] == "train":  # each command trains another run
        options += f" --out runs/new-{commands().index(line)}"
    assert run(f"{shlex.join(words)} {options}") == closed
    if target:
        assert Image.open(written.buffer).size == (56, 48)


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize("page", ["README.md", "docs/stylize.md"])
def test_documented_python_runs(page: str) -> None:
    (code,) = re.findall(
        r"```python\n(import underdrawing\n.*?)```", (ROOT / page).read_text(), re.DOTALL
    )
    names = {"photo": image(0), "mask": Image.open("mask.png")}
    exec(code, names)  # noqa: S102 (our own)
    assert names["stylized"].size == (56, 48)


def test_pages_are_short() -> None:
    lengths = {page.name: len(page.read_text().splitlines()) for page in PAGES}
    assert lengths.pop("README.md") <= 180
    assert max(lengths.values()) < 150, lengths


def test_local_links_exist() -> None:
    for page in [*PAGES, ROOT / "pretrained" / "README.md", ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
