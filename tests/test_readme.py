"""Every command of the README, run on tiny pictures and models."""

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
import torch
from PIL import Image
from underdrawing.experiments import app, networks
from underdrawing.experiments.main import main
from underdrawing.models import pretrained
from underdrawing.trainers.config import GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model

README = (Path(__file__).parents[1] / "README.md").read_text()
SAMPLES = {
    "PHOTOS": "photos", "PAINTINGS": "paintings", "PHOTO": "photo.png", "PAINTING": "painting.png",
    "RUN": "runs/mine", "THEIRS": "theirs", "CLIP": "clip.mp4", "LOOK": "look",
}  # fmt: skip
FOLDERS = "--photos photos --paintings paintings --workers 0"
NETWORK = "--generator.width 8 --generator.blocks 1"
STUDY = f"{FOLDERS} {NETWORK} --warmup 1 --steps 1 --size 32 --batch-size 2 --seeds 1 --pairs 2"
#: What makes a command short; of an option that is there twice, the last one counts.
TINY = {
    "train": f"{FOLDERS} {NETWORK} --steps 2 --size 32 --batch-size 2 --out runs/new",
    "reproduce": f"{STUDY} --out runs/table",
    "ablate": f"{STUDY} --out runs/table",
    "evaluate": "--pairs 2 --size 32",
    "app": "--port 17860",
    "benchmark": f"--parts stylize --sizes 32 --plain False --rivals False {NETWORK}",
}


def lines() -> list[str]:
    """The shell lines that run a command."""
    text = README.replace("\\\n", " ")
    return re.findall(r"^(?:cat \S+ \| )?underdrawing .+$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def workshop(
    cache: Path, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder, the current one, with all that the README's commands ask for; weights are random
    and scored by VGG16 alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERDRAWING_CACHE", str(cache))
        patch.setattr(pretrained, "_from_torchvision", lambda name: None)
        patch.setattr(networks, "_lite0", lambda *_: None)
        patch.chdir(tmp_path_factory.mktemp("workshop"))
        for name, folder in zip(("photos", "paintings"), folders, strict=True):
            shutil.copytree(folder, name)
        Path("more").mkdir()
        for number, name in enumerate(
            ("photo.png", "photo.jpg", "painting.png", "a.jpg", "b.jpg", "more/one.jpg")
        ):
            picture(number).save(name)
        for name in ("mask.png", "regions.png"):
            Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(name)
        make_run(Path("runs/mine"))
        assert run("evaluate runs/mine --write-manifest pairs.csv --pairs 2") == 0
        Path("theirs").mkdir()
        for pair in csv.DictReader(Path("pairs.csv").read_text().splitlines()):
            Image.open(pair["photo"]).rotate(180).save(Path("theirs") / pair["output"])
        yield Path.cwd()


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((56, 48), Image.Resampling.BICUBIC)


def make_run(out: Path) -> None:
    """A model as it is initialized."""
    config = TrainConfig(
        photos=Path("photos"), paintings=Path("paintings"), out=out, size=32,
        generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(build_generator(config).state_dict(), out)
    (out / "config.json").write_text(to_json(config))


def run(command: str) -> int:
    """Exit code of a command's words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["underdrawing", *shlex.split(command, comments=True)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize("line", lines())
def test_every_command_of_the_readme_runs(
    line: str, film: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "Event", Closing)
    source, _, command = line.rpartition("underdrawing ")
    command, _, target = command.partition("#")[0].partition(" > ")
    command = re.sub(r"\b[A-Z]{3,}\b", lambda word: SAMPLES.get(word[0], word[0]), command)
    words = shlex.split(command)
    if "clip.mp4" in words:
        shutil.copy(film("clip.mp4"), ".")
    if source:
        photo = io.BytesIO(Path(source.split()[1]).read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(photo))
    written = io.TextIOWrapper(io.BytesIO())
    if target:
        monkeypatch.setattr(sys, "stdout", written)
    closed = 130 if words[0] == "app" else 0
    assert run(f"{shlex.join(words)} {TINY.get(words[0], '')}") == closed
    if target:
        assert Image.open(written.buffer).size == (56, 48)


class Closing:
    """In the place of what a page waits for: it would be open for ever."""

    def wait(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("workshop")
def test_the_readmes_python_runs() -> None:
    (code,) = re.findall(r"```python\n(import underdrawing\n.*?)```", README, re.DOTALL)
    shutil.copy("a.jpg", "painting.jpg")
    names = {"photo": picture(0), "mask": Image.open("mask.png")}
    exec(code, names)  # noqa: S102 (our own)
    assert names["stylized"].size == (56, 48)
