import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.data.files import write_atomic
from underdrawing.experiments.robustness import (
    ANOTHER,
    PERTURBATIONS,
    PIXEL,
    RobustnessConfig,
    command,
    estimate,
    make_losses,
    measure,
    robustness,
)
from underdrawing.trainers.config import EncoderConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_encoder, build_generator, load_model, save_model

MakeRun = Callable[..., Path]
VIEWS = 1 + sum(len(severities) for _, severities in PERTURBATIONS.values())


@pytest.fixture
def make_run(tiny: Callable[..., TrainConfig], tmp_path: Path) -> MakeRun:
    """``make_run(recipe)``: a run with random attention, named after its recipe."""

    def make(recipe: str, **changes: object) -> Path:
        config = tiny(recipe, out=tmp_path / recipe, **changes)
        torch.manual_seed(0)
        generator = build_generator(config)
        if generator.attention:
            torch.nn.init.normal_(generator.attention.head.weight)
        save_model(generator.state_dict(), config.out)
        write_atomic(config.out / "config.json", to_json(config))
        return config.out

    return make


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
    changes = [(view - photos).square().mean().item() for view in views]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_brightness_and_noise_have_the_stated_size(photos: Tensor) -> None:
    torch.manual_seed(0)
    brighter = PERTURBATIONS["brightness + {:g}"][0](photos, 0.1)
    torch.testing.assert_close(brighter, photos + 0.1)
    noise = PERTURBATIONS["noise, std {:g}"][0](photos, 0.05) - photos
    assert noise.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(noise.mean().item()) < 0.003


@torch.no_grad()
def test_measured_losses_are_pixel_single_layer_multi_layer_and_attention_weighted(
    make_run: MakeRun, photos: Tensor
) -> None:
    run = make_run("attention")
    model = load_model(run)
    losses = make_losses({"RUN": model})
    assert list(losses) == ["single layer conv4_2", "multi-layer", "weighted by A of RUN"]
    layers = dict(model.config.content.layers)
    encoder, _ = build_encoder(model.config, list(layers))
    others = photos.roll(1, 0)
    values = measure(photos, others, losses, encoder)
    assert len(values) == VIEWS * (1 + len(losses))
    loss, generator = losses["weighted by A of RUN"]
    errors = loss.squared_errors(encoder(others), encoder(photos))
    assert generator
    maps = generator(photos, torch.randn(3, *generator.code_mean.shape)).attention
    assert not torch.allclose(maps, torch.ones_like(maps))
    for name, expected in {
        PIXEL: (others - photos).square().mean(dim=(1, 2, 3)),
        "single layer conv4_2": errors["conv4_2"].mean(dim=(1, 2, 3)),
        "multi-layer": sum(w * errors[x].mean(dim=(1, 2, 3)) for x, w in layers.items()),
        "weighted by A of RUN": loss(errors, maps),
    }.items():
        torch.testing.assert_close(values[ANOTHER, name], expected.double().numpy())


def test_estimates_are_shares_of_the_loss_to_another_photo_and_paired_with_the_pixel_loss() -> None:
    another, noise = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.7, 0.9, 1.3])
    values = {
        (ANOTHER, PIXEL): another, ("noise", PIXEL): noise,
        (ANOTHER, "double"): 8 * another, ("noise", "double"): 16 * noise,
        (ANOTHER, "half"): 8 * another, ("noise", "half"): 4 * noise,
        (ANOTHER, "same"): 8 * another, ("noise", "same"): 8 * noise,
        (ANOTHER, "2 % more"): 8 * another, ("noise", "2 % more"): 8.16 * noise,
    }  # fmt: skip
    losses = estimate(values)["noise"]
    assert losses[PIXEL].mean == pytest.approx(0.34)
    assert losses["double"].mean == pytest.approx(0.68)
    assert losses[PIXEL].low < 0.34 < losses[PIXEL].high
    assert losses["half"].high == pytest.approx(losses[PIXEL].high / 2)
    arrows = {name: loss.arrow for name, loss in losses.items()}
    assert arrows == {PIXEL: "", "double": "↑", "half": "↓", "same": "", "2 % more": "↑"}


def test_command_prints_and_writes_one_table_for_all_runs(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = [make_run("attention"), make_run("single-layer")], tmp_path / "out"
    command([*map(str, runs), "--images", "3", "--out", str(out), "--device", "cpu"])
    text = (out / "robustness.md").read_text()
    assert text in capsys.readouterr().out
    assert "3 photos, shorter side to 32 px" in text
    losses = json.loads((out / "robustness.json").read_text())["losses"]
    assert len(losses) == VIEWS - 1
    names = [PIXEL, "single layer conv4_2", "multi-layer", f"weighted by A of {runs[0]}"]
    for title, row in losses.items():
        assert list(row) == names
        assert title in text
        assert all(low <= mean <= high for mean, low, high, _ in row.values())


def test_result_does_not_depend_on_the_state_of_the_random_generator(make_run: MakeRun) -> None:
    config = RobustnessConfig((make_run("single-layer"),), images=2, device="cpu")
    torch.manual_seed(1)
    assert robustness(config) == robustness(config)


def test_invalid_options_raise(make_run: MakeRun) -> None:
    run = make_run("attention")
    other = make_run("multi-layer", encoder=EncoderConfig("vgg16_imagenet"))
    config = RobustnessConfig((run,), device="cpu")
    for changes, message in (
        ({"runs": ()}, "at least one run directory"),
        ({"runs": (run, other)}, r"different encoders \(vgg16, vgg16_imagenet\)"),
        ({"images": 1}, "got 1 photos; at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            robustness(replace(config, **changes))
