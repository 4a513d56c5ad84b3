"""Fixtures for tests that train: a cache with a random VGG16 and two folders of small pictures."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.experiments import judges
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
def one_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 alone scores: the independent network looks at large pictures, and takes long."""
    monkeypatch.setattr(judges, "_lite0", lambda *_: None)


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
    offline: None, one_judge: None, folders: tuple[Path, Path], tmp_path: Path
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
