"""Metric networks and studies for tests of commands."""

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from underdrawing.experiments import export as module
from underdrawing.experiments.export import ExportConfig
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.study import scores
from underdrawing.metrics.perceptual import LPIPS_LAYERS, lpips_vector
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, Network
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_vector
from underdrawing.models import pretrained
from underdrawing.trainers.config import AttentionConfig, GeneratorConfig, TrainConfig
from underdrawing.trainers.model_files import load_model, save_model
from underdrawing.trainers.style_codes import write_styles


def pixels(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: ACTIVATION_STD.get(layer, 1.0) * images for layer in layers}


@pytest.fixture(scope="session")
def pixel_networks() -> Callable[..., MetricNetworks]:
    """``pixel_networks()``: metric networks whose features are the pixels, so that style is color;
    ``wrap`` changes the network.
    """

    def make(wrap: Callable[[Network], Network] = lambda network: network) -> MetricNetworks:
        heads, network = [torch.ones(3)] * len(LPIPS_LAYERS), wrap(pixels)
        return MetricNetworks(
            FeatureExtractor(network, ACTIVATION_STD, style_vector, "toy", ""),
            FeatureExtractor(network, LPIPS_LAYERS, lambda x: lpips_vector(x, heads), "toy", ""),
            FeatureExtractor(network, ["relu4_3"], lambda x: x["relu4_3"].mean((2, 3)), "toy", ""),
            "LPIPS", "Fréchet (toy)", "KID (toy)",
        )  # fmt: skip

    return make


@pytest.fixture
def vgg16_alone(
    offline: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with the weights of VGG16 alone: others may be in the cache, or in packages."""
    weights = tmp_path / "cache" / "weights"
    weights.mkdir(parents=True)
    for file in (cache / "weights").glob("vgg16_features*"):
        (weights / file.name).symlink_to(file)
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "PACKAGES", {})
    monkeypatch.setitem(sys.modules, "open_clip", None)


@pytest.fixture
def small_study(
    offline: None, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    pixel_networks: Callable[..., MetricNetworks],
) -> StudyConfig:  # fmt: skip
    """A study of one step on small images, with pixels in place of metric networks."""
    monkeypatch.setattr(scores, "make_networks", lambda *_: pixel_networks())
    return replace(
        quick(), photos=folders[0], paintings=folders[1], out=tmp_path / "out", warmup=1, steps=1,
        attention_steps=1, size=32, batch_size=2, seeds=1, pairs=9, strengths=(0.5, 1.0), workers=0,
        device="cpu", init=None, precision="fp32", matched_gap=0.001,
        generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip


@pytest.fixture(scope="session")
def exported(
    cache: Path, folders: tuple[Path, Path], write_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> ExportConfig:  # fmt: skip
    """A model in which every layer has an effect, exported once, as a file and as a page."""
    folder = tmp_path_factory.mktemp("export")
    config = TrainConfig(
        size=32, generator=GeneratorConfig(width=8, blocks=1), out=folder / "run",
        attention=AttentionConfig(channels=True, gates_decoder=True),
    )  # fmt: skip
    run = write_model(config, residual=0.1, attention=1)
    generator = load_model(run).generator
    codes = torch.rand(8, len(generator.code_mean))
    generator.fit_standardization(codes)
    save_model(generator.state_dict(), run)
    write_styles(run, {"night": codes[0], "day & dusk": codes[1]})
    job = ExportConfig(run, folder / "mine.onnx", (folders[1] / "00.png",), folder / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERDRAWING_CACHE", str(cache))
        patch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
        patch.setattr(pretrained, "_from_torchvision", lambda name: None)
        patch.setattr(module, "CHECKED_SIZES", ((2, 75, 93, 1.7),))  # and the large one
        assert 0 < module.export(job) < 1e-3
    return job
