import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from underdrawing.models.attention import PredictedError
from underdrawing.models.discriminator import DiscriminatorOutput
from underdrawing.models.generator import Stylized
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model, load_state
from underdrawing.trainers.trainer import Trainer, collections, train

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


def test_an_unreadable_image_is_replaced_by_the_next_with_one_warning(
    tiny: Tiny, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A held-out photo and a training painting break after they were checked."""
    copies = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    config = tiny(photos=copies[0], paintings=copies[1])
    photos, paintings = collections(config)
    broken = photos.validation[0], paintings.train[0]
    monkeypatch.setattr(
        "underdrawing.trainers.trainer.collections", lambda *_, **__: (photos, paintings)
    )
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning, match="using the next image instead") as caught:
        trainer = Trainer(config)
    messages = [str(warning.message) for warning in caught]
    for path in broken:
        assert any(path.name in message for message in messages)
    assert len(trainer.validation.photos) == len(photos.validation) - 1
    assert "validation/total" in validate(trainer)


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

    def encode_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        return photo, photo

    def forward(self, photo: Tensor, *_: object, **__: object) -> Stylized:
        ones = torch.ones(1, 1, 4, 4)
        return Stylized(torch.full_like(photo, 0.5), ones, PredictedError(ones, {}))


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


@pytest.mark.parametrize(
    ("painting", "output", "accuracy"), [(0.9, 0.1, 1.0), (0.1, 0.9, 0.0), (0.9, 0.9, 0.5)]
)
def test_accuracy_counts_held_out_paintings_and_outputs(
    painting: float, output: float, accuracy: float, tiny: Tiny
) -> None:
    class Output(Constant):
        def forward(self, photo: Tensor, *_: object, **__: object) -> Stylized:
            ones = torch.ones(1, 1, 4, 4)
            return Stylized(torch.full_like(photo, output), ones, PredictedError(ones, {}))

    class Centered(nn.Module):
        def forward(self, image: Tensor, code: Tensor) -> DiscriminatorOutput:
            return DiscriminatorOutput(image[:, :1] - 0.5, [])

    trainer = Trainer(tiny())
    for image in trainer.validation.paintings:
        image.fill_(painting)
    metrics = validate(trainer, plain_discriminator=Centered(), averaged=Output())
    assert metrics["validation/accuracy"] == accuracy


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
    for name in ("manifest.json", "run.json"):  # so that its held-out images are known
        assert (run / "best" / name).read_bytes() == (run / name).read_bytes()
    assert saved_step(train(replace(config, out=run / "best", steps=7))) == 7  # it can be resumed


def test_best_value_survives_an_interruption(tiny: Tiny) -> None:
    run = train(tiny(validate_every=2))
    trainer = Trainer(tiny(steps=4))
    trainer._resume()
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    assert trainer.best == json.loads(last)["validation/total"]
