"""Shared fixtures: random encoder weights, small image folders, a tiny training config, a clip."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.scoring import networks
from underdrawing.models import pretrained
from underdrawing.trainers.config import GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model

torch.set_num_threads(1)  # the same summation order on every machine


class UnpickleBomb:
    """Create ``directory`` when unpickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.directory),)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide GPUs, so that ``auto`` is the CPU on every machine, except from tests marked ``gpu``.

    Accelerate keeps the first device of a process.
    """
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of processes that the test starts
        yield
    else:
        PartialState._reset_state()
        yield
        PartialState._reset_state()


@pytest.fixture
def unpickle_bomb(tmp_path: Path) -> UnpickleBomb:
    """An object that must never be unpickled; ``directory`` exists if it was."""
    return UnpickleBomb(tmp_path / "unpickled")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with a random VGG16."""
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
    """Load weights from the test cache only, without downloads."""
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(cache))
    monkeypatch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
    monkeypatch.setattr(pretrained, "_from_torchvision", lambda name: None)


@pytest.fixture
def single_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score with VGG16 alone: the other networks take 224 px images, which is slow."""
    monkeypatch.setattr(networks, "_lite0", lambda *_: None)
    monkeypatch.setattr(networks, "_saliency", lambda: None)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 12 smooth photos and one of 9 noisy paintings, 72x56 pixels."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, count, coarse in (("photos", 12, 4), ("paintings", 9, 16)):
        (root / name).mkdir()
        for i in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
            image = noise.resize((72, 56), Image.Resampling.BICUBIC)
            # Uncompressed: the split depends on the bytes, and those on the version of zlib.
            image.save(root / name / f"{i:02}.png", compress_level=0)
    return root / "photos", root / "paintings"


@pytest.fixture
def tiny(
    offline: None, single_network: None, folders: tuple[Path, Path], tmp_path: Path
) -> Callable[..., TrainConfig]:
    """A recipe scaled down to train in a second, in float32: ``tiny(recipe, **changes)``."""

    def make(recipe: str = "attention-adversarial", **changes: object) -> TrainConfig:
        config = replace(
            RECIPES[recipe](), photos=folders[0], paintings=folders[1], out=tmp_path / "run",
            size=32, batch_size=2, steps=2, workers=0, device="cpu", precision="fp32",
            log_every=1, save_every=2, image_every=2, generator=GeneratorConfig(width=8, blocks=1),
        )  # fmt: skip
        return replace(config, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def damaged() -> Callable[[list[bytes]], st.SearchStrategy[bytes]]:
    """``damaged(files)``: a file with bytes changed, cut off, inserted, repeated, deleted
    or copied from another of the files, in up to four places.
    """

    @st.composite
    def strategy(draw: st.DrawFn, files: list[bytes]) -> bytes:
        content, other = draw(st.sampled_from(files)), draw(st.sampled_from(files))
        kind = draw(st.sampled_from(["change", "cut", "insert", "repeat", "delete", "copy"]))
        for _ in range(draw(st.integers(1, 4))):
            place = st.integers(0, len(content)) | st.integers(0, min(len(content), 300))
            a, b = sorted((draw(place), draw(place)))
            new = draw(st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8))  # NaN
            content = {
                "change": content[:a] + new + content[a + len(new) :],
                "cut": content[:b],
                "insert": content[:a] + new + content[a:],
                "repeat": content[:b] + content[a:],
                "delete": content[:a] + content[b:],
                "copy": content[:a] + other[a : a + 200] + content[a + 200 :],
            }[kind]
        return content

    return strategy


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """``write_model(config)``: write an untrained model into its run directory.

    The layers that start at zero get weights of standard deviation ``residual``, ``attention``.
    """

    def write(
        config: TrainConfig, residual: float = 0.0, attention: float = 0.0, seed: int = 0
    ) -> Path:
        torch.manual_seed(seed)
        generator = build_generator(config)
        torch.nn.init.normal_(generator.to_residual.conv.weight, std=residual)
        if generator.attention:
            torch.nn.init.normal_(generator.attention.head.weight, std=attention)
        save_model(generator.state_dict(), config.out)
        (config.out / "config.json").write_text(to_json(config))
        return config.out

    return write


@pytest.fixture
def model_dir(
    tiny: Callable[..., TrainConfig], write_model: Callable[..., Path], tmp_path: Path
) -> Path:
    """Run directory of an untrained model with visible residuals and uneven attention."""
    return write_model(tiny(out=tmp_path / "model"), residual=0.1, attention=300)


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """``clip(name, **options)``: a video, by default of a square that moves over a smooth photo."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")

    def make(
        name: str, images: Sequence[np.ndarray] = (), *, height: int = 48, frames: int = 10,
        times: Sequence[int] | None = None, sound: str | None = "aac", layout: str = "mono",
        codec: str = "libx264", pix_fmt: str = "yuv420p", matrix: Sequence[int] | None = None,
        **context: Any,
    ) -> Path:  # fmt: skip
        """``images`` are (H,W,3) or (H,W,4), ``times`` tenths of a second, one per image; ``sound``
        is a codec or None, and lasts for ``frames`` tenths; ``context`` is set on the encoder.
        """
        images = images or moving_square(height, frames)
        with av.open(str(tmp_path / name), "w") as target:
            video = target.add_stream(codec, rate=10)
            video.height, video.width = images[0].shape[:2]
            video.pix_fmt, video.gop_size = pix_fmt, 8
            for option, value in context.items():
                setattr(video.codec_context, option, value)
            if matrix:
                video.set_display_matrix(matrix)
            audio = target.add_stream(sound, rate=48000, layout=layout) if sound else None
            for image, time in zip(images, times or range(len(images)), strict=True):
                kind = "rgba" if image.shape[2] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(image, kind)
                frame.pts, frame.time_base = time, Fraction(1, 10)
                target.mux(video.encode(frame))
            target.mux(video.encode(None))
            if audio:
                wave = np.sin(np.arange(4800) / 20)[None].astype(np.float32)
                samples = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
                samples.sample_rate = 48000
                resampler = av.AudioResampler(audio.format, layout, 48000)
                for number in range(frames):
                    samples.pts, samples.time_base = 4800 * number, Fraction(1, 48000)
                    for resampled in resampler.resample(samples):
                        target.mux(audio.encode(resampled))
                target.mux(audio.encode(None))
        return tmp_path / name

    return make


def moving_square(height: int, frames: int) -> list[np.ndarray]:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((64, height), Image.Resampling.BICUBIC)
    images = np.stack([np.asarray(photo)] * frames)
    for number, image in enumerate(images):
        image[8:20, 2 * number : 2 * number + 12] = 255
    return list(images)
