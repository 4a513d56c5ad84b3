"""Fixtures: a cache with a random VGG16, two folders of small pictures, a tiny recipe, a clip."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.experiments.scoring import networks
from underdrawing.experiments.recipes import RECIPES
from underdrawing.models import pretrained
from underdrawing.trainers.config import GeneratorConfig, TrainConfig

torch.set_num_threads(1)  # the same sums on every machine, and no fight over two cores


class Bomb:
    """Makes a folder, its crater, when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.crater),)


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    """What no file may bring to life."""
    return Bomb(tmp_path / "crater")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder whose VGG16 is random: tests of mechanics need no trained network."""
    folder = tmp_path_factory.mktemp("cache")
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in make_layers(cfgs["D"]).state_dict().items()}
    for name, value in state.items():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(value)
    (folder / "weights").mkdir()
    save_file(state, folder / "weights" / "vgg16_features-amdegroot-88682ab5.safetensors")
    return folder


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights come from the test cache alone; nothing is downloaded."""
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(cache))
    monkeypatch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
    monkeypatch.setattr(pretrained, "_from_torchvision", lambda name: None)


@pytest.fixture
def single_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 alone scores: the independent network looks at large pictures, and takes long."""
    monkeypatch.setattr(networks, "_lite0", lambda *_: None)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 12 smooth photos and one of 9 noisy paintings."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, count, coarse in (("photos", 12, 4), ("paintings", 9, 16)):
        (root / name).mkdir()
        for i in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
            noise.resize((72, 56), Image.Resampling.BICUBIC).save(root / name / f"{i:02}.png")
    return root / "photos", root / "paintings"


@pytest.fixture
def tiny(
    offline: None, single_network: None, folders: tuple[Path, Path], tmp_path: Path
) -> Callable[..., TrainConfig]:
    """A recipe at a size that trains in a second: ``tiny(recipe, **changes)``.

    In float32, whatever the machine is good at: the same sums everywhere.
    """

    def make(recipe: str = "attention-adversarial", **changes: object) -> TrainConfig:
        config = replace(
            RECIPES[recipe](), photos=folders[0], paintings=folders[1], out=tmp_path / "run",
            size=32, batch_size=2, steps=2, workers=0, device="cpu", precision="fp32",
            log_every=1, save_every=2, image_every=2, generator=GeneratorConfig(width=8, blocks=1),
        )  # fmt: skip
        return replace(config, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """A clip of a square that moves over a smooth photo: ``film(name, **options)``."""

    def make(
        name: str, *, width: int = 64, height: int = 48, frames: int = 10,
        sound: str | None = "aac", times: Sequence[int] | None = None, turn: int = 0,
        codec: str = "libx264",
    ) -> Path:  # fmt: skip
        """``times`` are in tenths of a second, one per frame; ``sound`` is a codec or none."""
        coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        with av.open(str(tmp_path / name), "w") as target:
            video = target.add_stream(codec, rate=10)
            video.width, video.height, video.pix_fmt, video.gop_size = width, height, "yuv420p", 8
            if turn:
                video.set_display_rotation(turn)
            audio = target.add_stream(sound, rate=48000, layout="mono") if sound else None
            for number, time in enumerate(times or range(frames)):
                picture = photo.copy()
                picture.paste("white", (2 * number, 8, 2 * number + 12, 20))
                frame = av.VideoFrame.from_image(picture)
                frame.pts, frame.time_base = time, Fraction(1, 10)
                target.mux(video.encode(frame))
            target.mux(video.encode(None))
            if audio:
                wave = np.sin(np.arange(4800) / 20)[None]
                heard = av.AudioFrame.from_ndarray(wave.astype(np.float32), "fltp", "mono")
                heard.sample_rate = 48000
                fitting = av.AudioResampler(audio.format, "mono", 48000)
                for number in range(frames):
                    heard.pts, heard.time_base = 4800 * number, Fraction(1, 48000)
                    for some in fitting.resample(heard):
                        target.mux(audio.encode(some))
                target.mux(audio.encode(None))
        return tmp_path / name

    return make
