"""A training with a text, on a toy model in place of CLIP."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from underdrawing.data.dataset import unpack
from underdrawing.experiments.train import parse
from underdrawing.models.clip import Clip
from underdrawing.trainers import train_step
from underdrawing.trainers.config import ClipConfig, TrainConfig, differences, identity_settings
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


def test_text_changes_the_model_and_resumes_to_the_same(tiny: Tiny) -> None:
    plain = tiny(steps=4, save_every=2)
    config = replace(plain, text="ink wash", out=plain.out.with_name("text"))
    states = [load_state(train(c)) for c in (plain, config)]
    name = "to_residual.conv.weight"
    assert not torch.equal(states[0][name], states[1][name])
    assert '"loss/text"' in (config.out / "metrics.jsonl").read_text()
    assert '"loss/text"' not in (plain.out / "metrics.jsonl").read_text()
    assert load_config(config.out).text == "ink wash"

    parts = replace(config, out=plain.out.with_name("parts"), accumulate=2)
    with pytest.MonkeyPatch.context() as patch:
        step = train_step.TrainStep.step

        def interrupted(self: train_step.TrainStep, number: int, raw: object) -> object:
            if number == 2:
                raise KeyboardInterrupt
            return step(self, number, raw)  # type: ignore[arg-type]

        patch.setattr(train_step.TrainStep, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(parts)
    for key, value in load_state(train(parts)).items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-5)


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


def test_another_text_is_another_run(tiny: Tiny) -> None:
    config = tiny(text="ink wash")
    train(config)
    with pytest.raises(ValueError, match="text: ink wash -> charcoal"):
        train(replace(config, text="charcoal"))
    with pytest.raises(ValueError, match=r"text: ink wash -> $"):
        train(replace(config, text=""))


def test_settings_of_the_model_count_only_with_a_text() -> None:
    """Runs and studies without text keep their identity."""
    names = identity_settings(TrainConfig())
    assert not [name for name in names if name == "text" or name.startswith("clip.")]
    other = ClipConfig(weight=2.0)
    assert not differences(TrainConfig(), TrainConfig(clip=other))
    assert differences(TrainConfig(text="ink"), TrainConfig(text="ink", clip=other)) == [
        "clip.weight: 1.0 -> 2.0"
    ]


def test_text_is_an_option_of_the_command() -> None:
    assert parse(["--text", "ink wash", "--clip.patches", "0"]).clip.patches == 0
    assert parse(["--text", "ink wash"]).text == "ink wash"
