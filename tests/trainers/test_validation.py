import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from underdrawing.models.discriminator import DiscriminatorOutput
from underdrawing.models.generator import Stylized
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model, load_state
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]


def validate(trainer: Trainer, **changes: object) -> dict[str, float]:
    networks = replace(trainer.networks, **changes)  # type: ignore[arg-type]
    return trainer.validation(networks, trainer.train_step.losses, trainer.accelerator)


@pytest.mark.parametrize("kind", ["fixed", "schedule"])
def test_total_has_the_weights_at_the_end_of_the_run(tiny: Tiny, kind: Any) -> None:
    trainer = Trainer(tiny(balance=replace(tiny().balance, kind=kind)))
    metrics, balance = validate(trainer), trainer.config.balance
    content, style = metrics["validation/content"], metrics["validation/style"]
    weight = balance.content * (balance.shift**-0.5 if kind == "schedule" else 1)
    assert metrics["validation/total"] == pytest.approx(weight * content + balance.style * style)
    assert style > 0
    assert metrics == validate(trainer)


def test_total_under_gradient_balance_does_not_depend_on_the_scale_of_a_loss(tiny: Tiny) -> None:
    """Gradient shares are not loss weights: a loss in other units must select the same model."""
    config = tiny(balance=replace(tiny().balance, kind="gradient", content=0.5, style=0.5))
    trainer = Trainer(config)
    losses = trainer.train_step.losses
    style = losses.style.forward

    def totals() -> tuple[float, float]:
        better = validate(trainer)["validation/total"]
        return better, validate(trainer, averaged=Constant())["validation/total"]

    before = totals()
    losses.style.forward = lambda *x: 1000 * style(*x)  # type: ignore[method-assign]
    after = totals()
    assert before[0] / before[1] == pytest.approx(after[0] / after[1], rel=1e-3)


def test_validation_does_not_change_training(tiny: Tiny, tmp_path: Path) -> None:
    often = load_state(train(tiny(validate_every=1, out=tmp_path / "often")))
    rarely = load_state(train(tiny(validate_every=3, out=tmp_path / "rarely")))
    assert all(torch.equal(often[key], value) for key, value in rarely.items())


@pytest.mark.parametrize("recipe", ["pixel-style", "multi-layer"])
def test_no_memorization_metric_without_a_discriminator(tiny: Tiny, recipe: str) -> None:
    metrics = validate(Trainer(tiny(recipe)))
    assert metrics.keys() == {"validation/content", "validation/style", "validation/total"}


class Brightness(nn.Module):
    """A discriminator whose logit is the mean brightness."""

    def forward(self, image: Tensor, code: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput(image.mean(dim=(1, 2, 3), keepdim=True), [])


class Constant(nn.Module):
    """A generator of gray images."""

    def forward(self, photo: Tensor, code: Tensor, attend: bool) -> Stylized:
        return Stylized(torch.full_like(photo, 0.5), torch.ones(1, 1, 4, 4), {})


@pytest.mark.parametrize(("held_out", "memorized"), [(0.9, 0.0), (0.7, 0.5), (0.5, 1.0)])
def test_memorization_is_the_gap_between_training_and_held_out_paintings(
    held_out: float, memorized: float, tiny: Tiny
) -> None:
    trainer = Trainer(tiny())
    for paintings, value in (
        (trainer.validation.trained, 0.9),
        (trainer.validation.paintings, held_out),
    ):
        for painting in paintings:
            painting.fill_(value)
    metrics = validate(trainer, plain_discriminator=Brightness(), averaged=Constant())
    assert metrics["validation/memorized"] == pytest.approx(memorized, abs=1e-5)


def test_no_metrics_without_held_out_images(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    run = train(tiny(paintings=tmp_path))
    assert "validation/total" not in (run / "metrics.jsonl").read_text()
    assert not (run / "best").exists()


def test_best_model_has_a_run_directory_of_its_own(tiny: Tiny) -> None:
    config = tiny(steps=6, validate_every=2, optimizer=replace(tiny().optimizer, lr=0.05, warmup=1))
    run = train(config)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    totals = {x["step"]: x["validation/total"] for x in lines if "validation/total" in x}
    best = min(totals, key=totals.__getitem__)
    assert totals.keys() == {2, 4, 6}
    assert saved_step(run / "best") == best
    assert load_model(run / "best").config == replace(config, out=run / "best")
    assert saved_step(train(replace(config, out=run / "best", steps=7))) == 7  # it can be resumed


def test_best_value_survives_an_interruption(tiny: Tiny) -> None:
    run = train(tiny(validate_every=2))
    trainer = Trainer(tiny(steps=4))
    trainer._resume()
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    assert trainer.best == json.loads(last)["validation/total"]
