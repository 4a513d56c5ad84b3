"""What ``underdrawing train`` says before and after."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.data.folders import Collection
from underdrawing.experiments.guide import next_lines, report, spread
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.trainer import begin, train

Tiny = Callable[..., TrainConfig]


def said(config: TrainConfig) -> str:
    trainer = begin(config, guided=True)
    assert trainer
    return report(trainer)


def test_counts_sizes_duplicates(tiny: Tiny, tmp_path: Path) -> None:
    for folder in ("a", "b"):  # of one or two pictures all are trained on
        (tmp_path / folder).mkdir()
        Image.radial_gradient("L").resize((50, 40)).save(tmp_path / folder / "same.png")
    Image.effect_noise((90, 30), 60).save(tmp_path / "b" / "other.png")
    text = said(tiny("few-paintings", paintings=tmp_path))
    assert "photos      6 to train on, 3 to validate, 3 to test" in text
    assert "shorter sides of 56 pixels" in text
    assert "paintings   3 to train on, 0 to validate, 0 to test" in text
    assert "shorter sides of 30 to 40 pixels" in text
    assert "1 of 3 are smaller than --size 32" in text
    assert "1 to train on is a copy of another" in text
    assert "expect      3 looks, learned by heart" in text
    assert "looks       " in text


def test_a_single_painting_is_compared_with_nothing(tiny: Tiny, tmp_path: Path) -> None:
    Image.effect_noise((48, 48), 80).convert("RGB").save(tmp_path / "a.png")
    text = said(tiny("few-paintings", paintings=tmp_path))
    assert "one look, learned by heart" in text
    assert "looks  " not in text


def test_a_run_that_goes_on_has_one_line(tiny: Tiny) -> None:
    train(tiny("attention"))
    config = tiny("attention", steps=3)
    assert said(config) == f"run         {config.out} goes on after step 2 of 3"


def test_what_is_said_takes_nothing_from_the_run(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("attention", out=tmp_path / "guided")
    trainer = begin(config, guided=True)
    assert trainer
    report(trainer)
    trainer.run()
    train(plain := replace(config, out=tmp_path / "plain"))
    assert (config.out / "metrics.jsonl").read_text() == (plain.out / "metrics.jsonl").read_text()


def test_spread_does_not_depend_on_the_scale_of_a_layer() -> None:
    codes = torch.rand(8, 6 + 2 * 3 + 2 * 5, generator=torch.Generator().manual_seed(0))
    loud = codes * torch.tensor([1.0] * 6 + [100.0] * 6 + [3.0] * 10)
    assert spread(codes, [3, 5]) == pytest.approx(spread(loud, [3, 5]))
    assert spread(codes[:1].repeat(8, 1), [3, 5]) == pytest.approx(0, abs=1e-6)


def test_the_next_commands_are_the_users_own(tmp_path: Path) -> None:
    art = tmp_path / "my art"
    config = replace(TrainConfig(), photos=tmp_path / "p", paintings=art, out=Path("runs/mine"))
    photos = Collection((tmp_path / "p" / "t.jpg",), (), (tmp_path / "p" / "test.jpg",))
    paintings = Collection((art / "one.jpg",), (), ())
    words = ["--steps", "5", "--paintings", str(art), "--out=runs/mine", "--steps=2000"]
    lines = dict(
        line.split(maxsplit=1) for line in next_lines(config, words, photos, paintings).splitlines()
    )
    assert shlex.split(lines["stylize"]) == [
        "underdrawing", "stylize", str(tmp_path / "p" / "test.jpg"), "--style",
        str(art / "one.jpg"), "--model", "runs/mine", "--out", "stylized",
    ]  # fmt: skip
    assert shlex.split(lines["evaluate"])[2:] == ["runs/mine", "--paintings", str(art)]
    assert shlex.split(lines["longer"])[2:] == [
        "--paintings", str(art), "--out=runs/mine", "--steps", "4000"
    ]  # fmt: skip
    assert lines["gallery"] == "runs/mine/gallery/index.html"
