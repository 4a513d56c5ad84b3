import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.data.folders import Collection
from underdrawing.experiments import paths
from underdrawing.experiments import robustness as module
from underdrawing.experiments.robustness import ANOTHER, PERTURBATIONS, PIXEL, RobustnessConfig
from underdrawing.losses.content import ContentLoss
from underdrawing.trainers import model_files
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import build_encoder, load_model

MakeRun = Callable[..., Path]
VIEWS = 1 + sum(len(severities) for _, severities in PERTURBATIONS.values())


@pytest.fixture
def make_run(tiny: Callable[..., TrainConfig], write_model: MakeRun, tmp_path: Path) -> MakeRun:
    """``make_run(recipe)``: a run with random attention, named after its recipe."""
    return lambda recipe: write_model(tiny(recipe, out=tmp_path / recipe), attention=1)


@pytest.fixture
def photos() -> Tensor:
    """Smooth images without black or white."""
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return 0.2 + 0.3 * torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


@pytest.mark.parametrize("title", list(PERTURBATIONS))
def test_perturbations_grow_with_severity_and_stay_in_range(title: str, photos: Tensor) -> None:
    torch.manual_seed(0)
    perturb, severities = PERTURBATIONS[title]
    views = [perturb(photos, severity) for severity in severities]
    assert all(view.shape == photos.shape and view.dtype == photos.dtype for view in views)
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    changes = [(view - photos).square().mean().sqrt().item() for view in views]
    assert 0 < changes[0] < changes[1] < changes[2]
    if title.startswith(("brightness", "noise")):  # the severity is their size
        assert changes[0] == pytest.approx(severities[0], rel=0.05)


@torch.no_grad()
def test_measured_losses_are_pixel_single_layer_multi_layer_and_attention_weighted(
    make_run: MakeRun, photos: Tensor
) -> None:
    generator, config = load_model(make_run("attention"))
    layers = dict(config.content.layers)
    encoder, _ = build_encoder(config, list(layers))
    others = photos.roll(1, 0)
    values = module.measure(photos, others, config.content, generator, encoder)
    loss = ContentLoss(config.content.layers, config.content.normalization)
    errors = loss.squared_errors(encoder(others), encoder(photos))
    maps = generator(photos, torch.randn(3, *generator.code_mean.shape)).attention
    assert not torch.allclose(maps, torch.ones_like(maps))
    expected = {
        PIXEL: (others - photos).square().mean(dim=(1, 2, 3)),
        "single layer conv4_2": errors["conv4_2"].mean(dim=(1, 2, 3)),
        "multi-layer": sum(w * errors[x].mean(dim=(1, 2, 3)) for x, w in layers.items()),
        "weighted by A": loss(errors, maps),
    }
    assert len(values) == VIEWS * len(expected)
    for name, value in expected.items():
        torch.testing.assert_close(values[ANOTHER, name], value.double().numpy())


def test_estimates_are_shares_of_the_loss_to_another_photo_and_paired_with_the_pixel_loss() -> None:
    another, noise = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.7, 0.9, 1.3])
    values = {
        (ANOTHER, PIXEL): another, ("noise", PIXEL): noise,
        (ANOTHER, "double"): 8 * another, ("noise", "double"): 16 * noise,
        (ANOTHER, "half"): 8 * another, ("noise", "half"): 4 * noise,
        (ANOTHER, "same"): 8 * another, ("noise", "same"): 8 * noise,
        (ANOTHER, "2 % more"): 8 * another, ("noise", "2 % more"): 8.16 * noise,
    }  # fmt: skip
    losses = module.estimate(values)["noise"]
    assert losses[PIXEL].mean == pytest.approx(0.34)
    assert losses["double"].mean == pytest.approx(0.68)
    assert losses[PIXEL].low < 0.34 < losses[PIXEL].high
    assert losses["half"].high == pytest.approx(losses[PIXEL].high / 2)
    arrows = {name: loss.arrow for name, loss in losses.items()}
    assert arrows == {PIXEL: "", "double": "↑", "half": "↓", "same": "", "2 % more": "↑"}


def test_command_prints_and_writes_the_same_table_each_time(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run("attention"), tmp_path / "out"
    texts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module.command([str(run), "--images", "3", "--out", str(out), "--device", "cpu"])
        texts.append((out / "robustness.md").read_text())
    assert texts[0] == texts[1]
    assert texts[0] in capsys.readouterr().out
    assert "3 photos, shorter side to 32 px" in texts[0]
    losses = json.loads((out / "robustness.json").read_text())["losses"]
    assert len(losses) == VIEWS - 1
    for title, row in losses.items():
        assert list(row) == [PIXEL, "single layer conv4_2", "multi-layer", "weighted by A"]
        assert title in texts[0]
        assert all(low <= mean <= high for mean, low, high, _ in row.values())


def test_the_shipped_model_is_measured_and_not_written_to(
    make_run: MakeRun, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("single-layer")
    for place in (model_files, module, paths):
        monkeypatch.setattr(place, "PRETRAINED", run)
    monkeypatch.chdir(tmp_path)
    config = RobustnessConfig(Path("pretrained"), folders[0], images=2, device="cpu")
    with pytest.raises(ValueError, match="name a folder with --photos"):
        module.robustness(replace(config, photos=None))
    text = module.robustness(config)
    assert Path("runs/robustness/robustness.md").read_text() == text
    assert not (run / "robustness").exists()


def test_unsuitable_photos_and_options_are_refused_before_the_work(
    make_run: MakeRun, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("measured"))
    run, empty = make_run("single-layer"), Collection((), (), ()).manifest()
    config = RobustnessConfig(run, device="cpu")
    (tmp_path / "one").mkdir()
    shutil.copy(folders[0] / "00.png", tmp_path / "one" / "file.png")
    with pytest.raises(ValueError, match="got 1 photos; at least 2"):
        module.robustness(replace(config, photos=tmp_path / "one"))
    with pytest.raises(NotADirectoryError):
        module.robustness(replace(config, out=tmp_path / "one" / "file.png"))
    for option in ({"images": 1}, {"size": 0}, {"size": 8}):
        with pytest.raises(ValueError, match="greater than or equal to"):
            replace(config, **option)  # type: ignore[arg-type]
    (run / "manifest.json").write_text(json.dumps({"photos": empty, "paintings": empty}))
    with pytest.raises(ValueError, match=r"\(12 added, 0 removed\); restore them, or give --ph"):
        module.robustness(config)
