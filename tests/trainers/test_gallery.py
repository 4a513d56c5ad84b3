"""The gallery: what a guided run shows, and that it costs the run nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.learner import Learner
from underdrawing.trainers.model_files import load_state
from underdrawing.trainers.trainer import begin, train

Tiny = Callable[..., TrainConfig]


def guided(config: TrainConfig) -> Path:
    trainer = begin(config, guided=True)
    assert trainer
    trainer.run()
    return config.out


def strips(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "gallery").glob("step-*.jpg"))


def test_a_strip_for_every_step_that_is_due_and_the_last(tiny: Tiny) -> None:
    run = guided(tiny("attention", steps=5))
    assert strips(run) == ["step-0000002.jpg", "step-0000004.jpg", "step-0000005.jpg"]
    page = (run / "gallery" / "index.html").read_text()
    assert [page.count(name) for name in strips(run)] == [1, 1, 1]
    assert page.index("pairs.jpg") < page.index("step 2<") < page.index("step 5<")
    with Image.open(run / "gallery" / "step-0000005.jpg") as strip:
        assert strip.size == (8 * 34 + 2, 36)


def test_it_shows_what_the_averaged_generator_makes_of_held_out_photos(tiny: Tiny) -> None:
    run = guided(tiny("attention", optimizer=TrainConfig().optimizer))
    with Image.open(run / "gallery" / "pairs.jpg") as one, Image.open(
        run / "gallery" / "step-0000002.jpg"
    ) as two:  # fmt: skip
        photos, outputs = (np.asarray(strip, np.float32)[2:34, 2:34] for strip in (one, two))
    assert photos.std() > 5
    assert np.corrcoef(photos.ravel(), outputs.ravel())[0, 1] > 0.5  # the same place in the row


def test_a_run_that_is_looked_at_is_the_same_run(tiny: Tiny, tmp_path: Path) -> None:
    plain, shown = train(tiny(out=tmp_path / "plain")), guided(tiny(out=tmp_path / "shown"))
    assert not (plain / "gallery").exists()
    a, b = load_state(plain), load_state(shown)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_it_goes_on_where_the_run_does(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config, step = tiny("attention", steps=6, image_every=1, save_every=2), Learner.step

    def dying(self: Learner, number: int, batch: object) -> object:
        if number == 3:
            raise RuntimeError("power cut")
        return step(self, number, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        guided(config)
    assert len(strips(config.out)) == 3  # and the checkpoint is that of step 2
    later = config.out / "gallery" / "step-0000005.jpg"
    later.write_bytes(b"of another course")
    with pytest.raises(RuntimeError, match="power cut"):
        guided(config)
    assert not later.exists()
    monkeypatch.setattr(Learner, "step", step)
    assert len(strips(guided(config))) == 6


def test_a_single_painting_fills_the_row(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.effect_noise((48, 48), 80).convert("RGB").save(tmp_path / "one" / "a.png")
    run = guided(tiny("few-paintings", paintings=tmp_path / "one"))
    assert strips(run) == ["step-0000002.jpg"]
    assert not (run / "best").exists()  # there is no held-out painting to choose by


def test_the_time_is_said_once_it_is_known(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("underdrawing.trainers.trainer.TIMED", 1)
    guided(tiny("attention", steps=3))
    assert "2 more steps of" in capsys.readouterr().err
    train(tiny("attention", steps=4))
    assert "more steps of" not in capsys.readouterr().err
