"""A training with a text, on a toy model in place of CLIP."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from underdrawing.data.dataset import unpack
from underdrawing.experiments.train import parse
from underdrawing.models.clip import Clip
from underdrawing.trainers import train_step
from underdrawing.trainers.config import TrainConfig, differences, identity_settings
from underdrawing.trainers.model_files import load_config, load_state
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]


class ColorModel(nn.Module):
    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def embed_texts(texts: Sequence[str]) -> Tensor:
    return torch.stack([torch.tensor([1.0, len(x) % 7, len(x) % 5]) for x in texts])


@pytest.fixture(autouse=True)
def _toy_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(ColorModel(), embed_texts, 16, (0.5, 0.5, 0.5), (1, 1, 1))
    monkeypatch.setattr(train_step, "load_clip", lambda *_: clip)


def test_text_changes_the_model_and_resumes_to_the_same(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(text="ink wash", save_every=1, out=tmp_path / "text")
    plain, whole = (load_state(run) for run in (finished, train(config)))
    name = "to_residual.conv.weight"
    assert not torch.equal(plain[name], whole[name])
    assert '"loss/text"' in (config.out / "metrics.jsonl").read_text()
    assert '"loss/text"' not in (finished / "metrics.jsonl").read_text()
    assert load_config(config.out).text == "ink wash"

    parts, step = replace(config, out=tmp_path / "parts", accumulate=2), train_step.TrainStep.step

    def interrupted(self: train_step.TrainStep, number: int, raw: Any) -> object:
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number, raw)

    monkeypatch.setattr(train_step.TrainStep, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    monkeypatch.setattr(train_step.TrainStep, "step", step)
    for key, value in load_state(train(parts)).items():
        torch.testing.assert_close(value, whole[key], rtol=1e-3, atol=1e-5)


def test_text_term_is_multiplied_by_the_strength(tiny: Tiny) -> None:
    trainer = Trainer(tiny(text="ink wash"))
    batch = unpack(next(trainer._batches(0)), trainer.device)
    batch["strength"] = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).expand_as(batch["strength"])
    result = train_step.forward(trainer.networks, batch, trainer.config)
    losses = trainer.train_step.losses
    terms = train_step.generator_terms(trainer.networks, losses, result, trainer.config)
    assert losses.text is not None
    loss = losses.text(result.output.image, batch["content"], batch["position"])
    assert loss.min() > 0.1
    torch.testing.assert_close(terms.extra["text"], loss * torch.tensor([1.0, 0.5]))


def test_text_is_an_option_and_its_settings_count_only_with_a_text() -> None:
    """Runs and studies without text keep their identity."""
    names = identity_settings(TrainConfig())
    assert not [name for name in names if name == "text" or name.startswith("clip.")]
    ink, other = TrainConfig(text="ink"), parse(["--text", "ink", "--clip.weight", "2"])
    assert not differences(TrainConfig(), replace(other, text=""))
    assert differences(ink, replace(ink, clip=other.clip)) == ["clip.weight: 1.0 -> 2.0"]
    assert differences(ink, replace(ink, text="charcoal")) == ["text: ink -> charcoal"]
    assert "text: ink -> " in differences(ink, TrainConfig())
