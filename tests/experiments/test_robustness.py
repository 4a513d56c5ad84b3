import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from underdrawing.data.changes import CHANGES
from underdrawing.data.files import write_atomic
from underdrawing.experiments import robustness as module
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.robustness import (
    RobustnessConfig,
    held_out_pairs,
    robustness,
    run_names,
    with_one_encoder,
)
from underdrawing.experiments.robustness_report import cell, to_markdown
from underdrawing.experiments.sensitivity import LOSS, LPIPS, SSIM, Curve, Estimate
from underdrawing.metrics.scores import MetricNetworks
from underdrawing.trainers.config import EncoderConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model

Make = Callable[[str], Path]


@pytest.fixture
def make_run(tiny: Callable[..., TrainConfig], tmp_path: Path) -> Make:
    """``make_run(recipe)``: the folder of a run whose generator paints at random."""

    def make(recipe: str) -> Path:
        config = tiny(recipe, out=tmp_path / recipe)
        torch.manual_seed(0)
        generator = build_generator(config)
        torch.nn.init.normal_(generator.paint.conv.weight, std=0.05)
        save_model(generator.state_dict(), config.out)
        write_atomic(config.out / "config.json", to_json(config))
        return config.out

    return make


def test_losses_and_outputs_of_runs_are_measured_and_written(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    toy_judges: Callable[..., MetricNetworks],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "make_judges", toy_judges)
    runs = make_run("attention"), make_run("single-layer")
    out = tmp_path / "out"
    summary, facts = robustness(RobustnessConfig(runs, pairs=2, device="cpu", out=out))
    names = {LOSS: {"pixel", "single layer conv4_2", "multi-layer", "weighted by A of attention"}}
    names |= {key: {"identity", "color only", "attention", "single-layer"} for key in (SSIM, LPIPS)}
    assert {figure: set(rows) for figure, rows in summary.another.items()} == names
    assert len(summary.curves) == len(CHANGES) * sum(map(len, names.values()))
    assert all(curve.points[0].mean == pytest.approx(0, abs=1e-5) for curve in summary.curves)
    assert all(estimate.mean > 0.01 for estimate in summary.another[SSIM].values())

    assert {path.name for path in out.iterdir()} == {
        f"robustness.{x}" for x in ("json", "md", "html")
    }
    content = json.loads((out / "robustness.json").read_text())
    assert content["photos"] == len(content["pairs"]) == 2
    assert content["runs"] == {run.name: str(run) for run in runs}
    assert len(content["curves"]) == len(summary.curves)
    assert (out / "robustness.md").read_text() == to_markdown(summary, facts)
    page = (out / "robustness.html").read_text()
    assert page.count("<svg") >= 3 * len(CHANGES)
    assert all(name in page for row in names.values() for name in row)
    assert not re.search(r'(?:src|href)="http', page)


def test_no_photo_comes_twice_and_the_split_is_as_asked(
    tiny: Callable[..., TrainConfig], folders: tuple[Path, Path], offline: None
) -> None:
    config = RobustnessConfig((Path("run"),))
    test, validation = (
        held_out_pairs(replace(config, split=split), tiny(), False)
        for split in ("test", "validation")
    )
    assert len({photo for photo, _ in test}) == len(test) == 3
    assert not {photo for photo, _ in test} & {photo for photo, _ in validation}
    everything = held_out_pairs(replace(config, photos=folders[0]), tiny(), False)
    assert len(everything) == 12
    with pytest.raises(ValueError, match="one photo is not enough"):
        held_out_pairs(replace(config, pairs=1), tiny(), False)


def test_runs_go_by_their_recipes_and_where_these_are_alike_by_their_folders() -> None:
    runs = [Path("a"), Path("b"), Path("c")]
    names = run_names(runs, ["attention", "multi-layer", "attention"])
    assert names == ["attention (a)", "multi-layer", "attention (c)"]


def test_runs_of_several_encoders_and_no_run_are_refused_in_words() -> None:
    config = RECIPES["attention"]()
    other = replace(config, encoder=EncoderConfig("vgg19"))
    elsewhere = replace(config, encoder=EncoderConfig(weights_dir=Path("weights")))
    assert with_one_encoder([config, elsewhere]) == config
    with pytest.raises(ValueError, match=r"different encoders \(vgg16, vgg19\)"):
        with_one_encoder([config, other])
    with pytest.raises(ValueError, match="at least one run"):
        with_one_encoder([])


@pytest.mark.parametrize(
    ("beside", "arrow"), [((-0.3, -0.1), " ↓"), ((0.1, 0.3), " ↑"), ((-0.1, 0.1), "")]
)
def test_an_arrow_needs_an_interval_without_zero(beside: tuple[float, float], arrow: str) -> None:
    points = Estimate(0, 0, 0), Estimate(0.5, 0.4, 0.6)
    area = Estimate(0.25, 0.2, 0.3)
    others = {"pixel": Estimate(0, *beside), "single layer": Estimate(1, 1, 1)}
    curve = Curve(LOSS, "noise", "multi-layer", (0, 0.2), points, area, others)
    assert cell(curve) == f"0.500 · 0.250 ± 0.050{arrow}"
    assert "↑" not in cell(replace(curve, name="pixel", beside={"multi-layer": Estimate(1, 1, 1)}))
