import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from underdrawing.data.dataset import RawBatch
from underdrawing.experiments.recipes import RECIPES
from underdrawing.losses.attention import OBJECTIVES, TARGETS
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import AdversarialConfig, TrainConfig
from underdrawing.trainers.model_files import load_model, load_state
from underdrawing.trainers.runtime import Interrupted
from underdrawing.trainers.train_step import ForwardResult, TrainStep
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_models(a: Path, b: Path) -> bool:
    first, second = load_state(a), load_state(b)
    return all(torch.equal(first[key], second[key]) for key in first)


def largest_difference(a: Path, b: Path) -> float:
    first, second = load_state(a), load_state(b)
    return max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(tiny: Tiny, recipe: str) -> None:
    run = train(tiny(recipe))
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(value == value for line in lines for value in line.values())  # no NaN
    generator, config = load_model(run)
    assert config.recipe == recipe
    assert not generator.training


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_attention_objective_trains(tiny: Tiny, objective: str) -> None:
    config = tiny("attention")
    attention = replace(config.attention, objective=objective, channels=True)  # type: ignore[arg-type]
    run = train(replace(config, attention=attention))
    assert ("attention/kl" in metrics(run)[0]) == (objective != "uniform")


@pytest.mark.parametrize("target", TARGETS)
def test_every_attention_target_trains(tiny: Tiny, target: str) -> None:
    config = tiny("attention")
    train(replace(config, attention=replace(config.attention, target=target)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"game": "lsgan", "spectral": False},
        {"game": "nonsaturating", "r1": 1.0},
        {"feature_matching": 1.0, "projection": False, "augment": False},
    ],
)
def test_every_kind_of_discriminator_trains(tiny: Tiny, changes: dict[str, object]) -> None:
    train(tiny(adversarial=replace(AdversarialConfig(width=8), **changes)))  # type: ignore[arg-type]


def test_a_run_folder_tells_where_everything_came_from(tiny: Tiny) -> None:
    run = train(tiny())
    about = json.loads((run / "run.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    assert len(about["encoder"]["sha256"]) == 64
    assert about["data"]["photos"] == manifest["photos"]["sha256"]
    assert {"torch", "kornia", "accelerate"} <= set(about["packages"])
    assert len(manifest["paintings"]["train"]) == 3
    assert list((run / "tensorboard").iterdir())


def test_resumed_run_is_bit_identical(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(steps=6, out=tmp_path / "whole"))
    broken = tiny(steps=6, out=tmp_path / "broken")
    step, steps = TrainStep.step, []

    def dying(self: TrainStep, number: int, batch: RawBatch) -> ForwardResult:
        steps.append(number)
        if number == 3 and steps.count(3) == 1:
            raise RuntimeError("power cut")
        return step(self, number, batch)

    monkeypatch.setattr(TrainStep, "step", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        train(broken)
    train(broken)
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]  # went on from the checkpoint at 2
    assert same_models(whole, broken.out)
    assert metrics(whole) == metrics(broken.out)


def test_ctrl_c_saves_and_the_same_command_continues(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(steps=4, out=tmp_path / "whole"))
    config, step = tiny(steps=4, save_every=100), TrainStep.step

    def interrupted(self: TrainStep, number: int, batch: RawBatch) -> ForwardResult:
        scene = step(self, number, batch)
        if number == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return scene

    monkeypatch.setattr(TrainStep, "step", interrupted)
    with pytest.raises(Interrupted, match="step 1 of 4"):
        train(config)
    monkeypatch.setattr(TrainStep, "step", step)
    assert same_models(train(config), whole)


def test_stopping_the_whole_process_group_saves_too(
    tiny: Tiny, tmp_path: Path, cache: Path
) -> None:
    """As a terminal's Ctrl-C does: the loader's workers get the signal as well."""
    config = tiny()
    words = [
        "--photos", config.photos, "--paintings", config.paintings, "--out", config.out,
        "--size", 32, "--batch-size", 2, "--steps", 100_000, "--workers", 2, "--device", "cpu",
        "--precision", "fp32", "--log-every", 1, "--save-every", 100_000,
        "--generator.width", 8, "--generator.blocks", 1,
    ]  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, "-m", "underdrawing.experiments.train", *map(str, words)],
        env=os.environ | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (config.out / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert saved_step(config.out) > 0


def test_micro_batches_do_not_change_the_result(tiny: Tiny, tmp_path: Path) -> None:
    one = train(tiny(batch_size=4, out=tmp_path / "one"))
    two = train(tiny(batch_size=4, accumulate=2, out=tmp_path / "two"))
    assert largest_difference(one, two) < 2e-4


def test_workers_do_not_change_the_result(tiny: Tiny, tmp_path: Path) -> None:
    assert same_models(
        train(tiny(out=tmp_path / "none")), train(tiny(workers=2, out=tmp_path / "two"))
    )


def test_a_finished_run_is_left_alone_and_more_steps_continue_it(tiny: Tiny) -> None:
    config = tiny()
    run = train(config)
    written = (run / "model.safetensors").stat().st_mtime_ns
    train(config)
    assert (run / "model.safetensors").stat().st_mtime_ns == written
    train(replace(config, steps=3))
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"steps": 1}, {"size": 40}])
def test_another_configuration_is_refused_with_the_difference(
    tiny: Tiny, changes: dict[str, int]
) -> None:
    run = train(tiny())
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"(?s)another configuration.*{name}: .* -> {value}"):
        train(tiny(out=run, **changes))


def test_a_run_can_start_from_another(tiny: Tiny, tmp_path: Path) -> None:
    start = train(tiny("multi-layer", out=tmp_path / "start"))
    config = tiny("attention-adversarial", init=start, out=tmp_path / "next")
    before = load_state(start)
    fresh = Trainer(config).networks.plain_generator.state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in before.items())
    wider = replace(config, generator=replace(config.generator, width=16))
    with pytest.raises(ValueError, match="another shape"):
        train(wider)


def test_a_batch_that_does_not_divide_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="does not divide"):
        tiny(batch_size=3, accumulate=2)


def test_gradient_balance_holds_its_shares(tiny: Tiny) -> None:
    run = train(tiny("gradient-balance", steps=3))
    config = RECIPES["gradient-balance"]()
    assert metrics(run)[-1]["share/content"] == pytest.approx(config.balance.content, abs=0.02)
    assert metrics(run)[-1]["share/adversarial"] == pytest.approx(0.1, abs=0.02)
