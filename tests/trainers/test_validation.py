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


def test_validation_does_not_change_training(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    often = load_state(train(tiny(validate_every=1, out=tmp_path / "often")))
    rarely = load_state(finished)
    assert all(torch.equal(often[key], value) for key, value in rarely.items())


def test_no_memorization_metric_without_a_discriminator(tiny: Tiny) -> None:
    metrics = validate(Trainer(tiny("multi-layer")))
    assert metrics.keys() == {"validation/content", "validation/style", "validation/total"}


class Bright(nn.Module):
    """A discriminator that takes bright pixels for those of a painting."""

    def forward(self, image: Tensor, code: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput(image[:, :1] - 0.5, [])


class Constant(nn.Module):
    """A generator of images of one gray level."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = level

    def encode_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        return photo, photo

    def forward(self, photo: Tensor, *_: object, **__: object) -> Stylized:
        ones = torch.ones(1, 1, 4, 4)
        return Stylized(torch.full_like(photo, self.level), ones, PredictedError(ones, {}))


@pytest.mark.parametrize(
    ("held_out", "output", "memorized", "accuracy"),
    [(0.9, 0.4, 0.0, 1.0), (0.65, 0.4, 0.5, 1.0), (0.4, 0.4, 1.0, 0.5), (0.4, 0.8, 5.0, 0.0)],
)
def test_discriminator_is_judged_on_training_paintings_held_out_ones_and_outputs(
    held_out: float, output: float, memorized: float, accuracy: float, tiny: Tiny
) -> None:
    """Memorization is the gap between training and held-out paintings, whose level is given."""
    trainer = Trainer(tiny())
    for painting in trainer.validation.trained:
        painting.fill_(0.9)
    for painting in trainer.validation.paintings:
        painting.fill_(held_out)
    metrics = validate(trainer, plain_discriminator=Bright(), averaged=Constant(output))
    assert metrics["validation/memorized"] == pytest.approx(memorized, abs=1e-5)
    assert metrics["validation/accuracy"] == accuracy


def test_no_metrics_without_held_out_images(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    run = train(tiny(paintings=tmp_path))
    assert "validation/total" not in (run / "metrics.jsonl").read_text()
    assert not (run / "best").exists()


def test_best_model_has_a_run_directory_of_its_own(tiny: Tiny) -> None:
    config = tiny(steps=3, validate_every=1, optimizer=replace(tiny().optimizer, lr=0.05, warmup=1))
    run = train(config)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    totals = {x["step"]: x["validation/total"] for x in lines if "validation/total" in x}
    best = min(totals, key=totals.__getitem__)
    assert totals.keys() == {1, 2, 3}
    assert saved_step(run / "best") == best
    assert load_model(run / "best").config == replace(config, out=run / "best")
    for name in ("manifest.json", "run.json"):  # so that its held-out images are known
        assert (run / "best" / name).read_bytes() == (run / name).read_bytes()
    assert saved_step(train(replace(config, out=run / "best", steps=4))) == 4  # it can be resumed


def test_best_value_survives_an_interruption(tiny: Tiny, finished: Path) -> None:
    trainer = Trainer(tiny(steps=4))
    trainer._resume()
    last = (finished / "metrics.jsonl").read_text().splitlines()[-1]
    assert trainer.best == json.loads(last)["validation/total"]
