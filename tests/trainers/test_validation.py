import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from underdrawing.models.discriminator import DiscriminatorOutput
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_model, load_state
from underdrawing.trainers.trainer import Trainer, train
from underdrawing.trainers.validation import read_readable_squares

Tiny = Callable[..., TrainConfig]


def figures(trainer: Trainer, **changes: object) -> dict[str, float]:
    networks = replace(trainer.networks, **changes)  # type: ignore[arg-type]
    return trainer.validation(networks, trainer.train_step.objectives, trainer.accelerator)


def test_the_total_is_weighed_as_the_config_says(tiny: Tiny) -> None:
    trainer = Trainer(tiny())
    found, balance = figures(trainer), trainer.config.balance
    expected = (
        balance.content * found["validation/content"] + balance.style * found["validation/style"]
    )
    assert found["validation/total"] == pytest.approx(expected)
    assert found["validation/style"] > 0
    assert found == figures(trainer)


def test_looking_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    often = train(tiny(steps=3, validate_every=1, out=tmp_path / "often"))
    seldom = train(tiny(steps=3, validate_every=3, out=tmp_path / "seldom"))
    a, b = load_state(often), load_state(seldom)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("recipe", ["pixel-style", "multi-layer"])
def test_without_a_discriminator_nothing_is_memorized(tiny: Tiny, recipe: str) -> None:
    found = figures(Trainer(tiny(recipe)))
    assert found.keys() == {"validation/content", "validation/style", "validation/total"}


class Brightness(nn.Module):
    """A discriminator for which a picture is the more of a painting the brighter it is."""

    def forward(self, image: Tensor, standard: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput([image.mean(dim=(1, 2, 3), keepdim=True)], [])


@pytest.mark.parametrize(("held_out", "memorized"), [(0.9, 0.0), (0.7, 0.5), (0.5, 1.0)])
def test_memorizing_is_the_gap_of_held_out_paintings(
    held_out: float, memorized: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny())
    trainer.validation.trained.fill_(0.9)
    trainer.validation.paintings.fill_(held_out)
    trainer.validation.photos.fill_(0.5)
    output = trainer.networks.averaged(torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, 1926))
    image = torch.full((1, 3, 32, 32), 0.5)
    monkeypatch.setattr(
        trainer.networks.averaged, "forward", lambda *_, **__: output._replace(image=image)
    )
    found = figures(trainer, plain_discriminator=Brightness())
    assert found["validation/memorized"] == pytest.approx(memorized, abs=1e-5)


def test_no_held_out_pictures_no_figures(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    run = train(tiny(paintings=tmp_path))
    assert "validation/total" not in (run / "metrics.jsonl").read_text()
    assert not (run / "best").exists()


def test_the_best_model_is_a_run_folder_of_its_own(tiny: Tiny) -> None:
    config = tiny(steps=6, validate_every=2, optimizer=replace(tiny().optimizer, lr=0.05, warmup=1))
    run = train(config)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    totals = {x["step"]: x["validation/total"] for x in lines if "validation/total" in x}
    best = min(totals, key=totals.__getitem__)
    assert totals.keys() == {2, 4, 6}
    assert saved_step(run / "best") == best
    model, trained = load_model(run / "best")
    assert not model.training
    assert trained == replace(config, out=run / "best")
    more = train(replace(config, out=run / "best", steps=7))  # training goes on from there, too
    assert saved_step(more) == 7


def test_the_best_is_not_forgotten_over_an_interruption(tiny: Tiny) -> None:
    config = tiny(steps=2, validate_every=2)
    train(config)
    trainer = Trainer(replace(config, steps=4))
    assert trainer.best == math.inf
    trainer._resume()
    last = (config.out / "metrics.jsonl").read_text().splitlines()[-1]
    assert trainer.best == json.loads(last)["validation/total"]


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths[1:]:
        Image.new("RGB", (40, 30), "red").save(path)
    with pytest.warns(UserWarning, match=r"left out: .*0\.png"):
        assert read_readable_squares(paths, 16, most=2).shape == (2, 3, 16, 16)
    assert read_readable_squares([], 16, most=2).shape == (0, 3, 16, 16)
