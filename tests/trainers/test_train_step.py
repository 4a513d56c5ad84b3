import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from underdrawing.data.dataset import Batch, unpack
from underdrawing.losses.attention import OBJECTIVES, log_structural_error
from underdrawing.models.color import color_statistics
from underdrawing.models.discriminator import DiscriminatorOutput
from underdrawing.models.style_code import style_code
from underdrawing.trainers import train_step
from underdrawing.trainers.checkpoint import checkpoints, saved_step
from underdrawing.trainers.config import (
    AttentionConfig,
    GeneratorConfig,
    OptimizerConfig,
    TrainConfig,
)
from underdrawing.trainers.dry_run import make_plan
from underdrawing.trainers.model_files import load_state
from underdrawing.trainers.networks import Networks
from underdrawing.trainers.tensor_files import read_tensors
from underdrawing.trainers.train_step import (
    Terms,
    discriminator_loss,
    forward,
    generator_terms,
    mean_log_error,
)
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]


def read_metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def first_batch(trainer: Trainer) -> Batch:
    return unpack(next(trainer._batches(0)), trainer.device)


def terms_of(trainer: Trainer, batch: Batch) -> Terms:
    result = forward(trainer.networks, batch, trainer.config)
    return generator_terms(trainer.networks, trainer.train_step.losses, result, trainer.config)


def total(terms: Terms) -> Tensor:
    return torch.stack([t.sum() for t in (terms.balanced | terms.extra).values()]).sum()


def snapshot(*modules: nn.Module | None) -> list[Tensor]:
    return [x.clone() for m in modules if m is not None for x in m.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def has_gradients(module: nn.Module | None) -> bool:
    assert module is not None
    return any(p.grad is not None for p in module.parameters())


# --- gradient hygiene -------------------------------------------------------------------------


@pytest.fixture
def trainer(tiny: Tiny) -> Trainer:
    """With spectral norm, whose buffers must not change in the generator's step."""
    config = tiny()
    adversarial = replace(config.adversarial, feature_matching=0.5, spectral_norm=True)
    return Trainer(replace(config, adversarial=adversarial))


def test_no_network_changes_by_the_loss_of_the_other(
    trainer: Trainer,
) -> None:
    n, batch = trainer.networks, first_batch(trainer)
    assert n.discriminator is not None
    before = snapshot(n.plain_generator, n.plain_discriminator)
    result = forward(n, batch, trainer.config)
    discriminator_loss(n.discriminator, result, trainer.config).loss.sum().backward()
    assert has_gradients(n.discriminator)
    assert not has_gradients(n.plain_generator)
    n.discriminator.zero_grad()
    total(terms_of(trainer, batch)).backward()
    assert has_gradients(n.plain_generator)
    assert not has_gradients(n.discriminator)
    assert equal(snapshot(n.plain_generator, n.plain_discriminator), before)
    assert all(p.requires_grad for p in n.discriminator.parameters())


def test_encoder_is_bit_identical_after_training(trainer: Trainer) -> None:
    before = snapshot(trainer.networks.encoder)
    trainer.run()
    assert equal(snapshot(trainer.networks.encoder), before)
    assert not has_gradients(trainer.networks.encoder)


def test_every_trainable_parameter_receives_a_gradient(trainer: Trainer) -> None:
    """As DDP requires. The zero-initialized last layer would block gradients, so it is changed."""
    generator = trainer.networks.plain_generator
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.05)
    total(terms_of(trainer, first_batch(trainer))).backward()
    assert not [name for name, p in generator.named_parameters() if p.grad is None]


def test_training_conditions_the_network_on_the_drawn_strength(trainer: Trainer) -> None:
    generator, batch = trainer.networks.plain_generator, first_batch(trainer)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.05)
    batch["strength"] = torch.full_like(batch["strength"], 0.5)
    result = forward(trainer.networks, batch, trainer.config)
    code = style_code(batch["style"], result.style[0])
    images = (
        generator(batch["content"], code, 0.5, True, cond, batch["uniform"][:, -2:]).image
        for cond in (0.5, 1.0)
    )
    same, other = ((image - result.output.image).abs().max() for image in images)
    assert same < 1e-5 < 1e-4 < other


# --- losses -----------------------------------------------------------------------------------


def test_strength_zero_returns_the_photo_and_carries_no_style_loss(trainer: Trainer) -> None:
    batch = first_batch(trainer)
    batch["strength"] = torch.zeros_like(batch["strength"])
    result = forward(trainer.networks, batch, trainer.config)
    terms = terms_of(trainer, batch)
    assert torch.equal(result.output.image, batch["content"])
    assert terms.balanced["style"].abs().max() == 0
    assert terms.balanced["adversarial"].abs().max() == 0


def test_discriminator_weights_full_strength_outputs_only(trainer: Trainer) -> None:
    config, discriminator = trainer.config, trainer.networks.discriminator
    assert discriminator is not None
    batch = first_batch(trainer)
    result = forward(trainer.networks, batch, config)

    def losses(p: float, full: float) -> list[float]:
        batch["full"] = torch.tensor([0.0, full])
        d = discriminator_loss(discriminator, result, replace(config, full_strength_prob=p))
        return d.loss.tolist()

    without, certain, rare = losses(0.5, 0.0), losses(1.0, 1.0), losses(0.5, 1.0)
    assert without[0] == certain[0] == rare[0]
    assert certain[1] > without[1]
    assert rare[1] - without[1] == pytest.approx(2 * (certain[1] - without[1]))


class Bright(nn.Module):
    """A discriminator that takes bright pixels for those of a painting."""

    def forward(self, image: Tensor, code: Tensor) -> DiscriminatorOutput:
        return DiscriminatorOutput(image[:, :1] - 0.5, [])


def test_accuracy_averages_over_real_and_full_strength_patches(trainer: Trainer) -> None:
    batch, adversarial = first_batch(trainer), replace(trainer.config.adversarial, augment=False)
    batch["strength"] = torch.zeros_like(batch["strength"])  # the output is the photo
    batch["style"].fill_(1)
    batch["content"].fill_(0)[..., :8] = 1  # a quarter of it looks like a painting
    batch["full"] = torch.tensor([0.0, 1.0])
    result = forward(trainer.networks, batch, trainer.config)
    d = discriminator_loss(Bright(), result, replace(trainer.config, adversarial=adversarial))
    assert d.accuracy.tolist() == [1, (1 + 0.75) / 2]


# --- a step does not wait for the device ------------------------------------------------------

#: Operators whose result the host has to wait for.
SYNCHRONIZING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2",
    "_linalg_check_errors", "_assert_async", "bincount",
}  # fmt: skip


class _RefuseSynchronization(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.overloadpacket.__name__ in SYNCHRONIZING:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def no_synchronization(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a value of a tensor is read, by an operator or by a method, or if a tensor is made of
    numbers, whose copy to a GPU the host waits for.
    """

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is read or made of numbers")

    with monkeypatch.context() as patch, _RefuseSynchronization():
        for name in ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__"):
            patch.setattr(Tensor, name, refuse)
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, refuse)
        yield


def assert_steps_do_not_wait(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run two steps: the first measures the balance, the second logs."""
    trainer = Trainer(replace(config, log_every=2))
    batches = list(trainer._batches(0))
    color_statistics(torch.rand(1, 3, 4, 4))  # caches a constant
    with no_synchronization(monkeypatch):
        for step, batch in enumerate(batches):
            trainer.train_step.step(step, batch)
    metrics = trainer.train_step.metrics(config.steps)
    assert "loss/style" in metrics
    assert ("attention/kl" in metrics) == (config.attention.objective != "uniform")
    assert ("loss/discriminator" in metrics) == (config.balance.adversarial > 0)


@pytest.mark.parametrize(
    "recipe", ["pixel-style", "multi-layer", "paper-weights", "gradient-balance"]
)
def test_recipes_train_without_waiting_for_the_device(
    recipe: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_steps_do_not_wait(tiny(recipe), monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        *({"attention": {"objective": objective, "channels": True}} for objective in OBJECTIVES),
        {
            "adversarial": {"gan_loss": "lsgan", "projection": False, "augment": False},
            "content": {"dynamic_layers": True}, "batch_size": 4, "accumulate": 2,
        },
        {
            "adversarial": {
                "gan_loss": "nonsaturating", "r1": 1.0, "feature_matching": 1.0,
                "spectral_norm": True,
            },
            "balance": {"tv": 1.0}, "precision": "bf16",
        },
    ],
    ids=str,
)  # fmt: skip
def test_every_option_trains_without_waiting_for_the_device(
    changes: dict[str, Any], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("attention" if "attention" in changes else "attention-adversarial")
    for name, value in changes.items():
        section = replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = replace(config, **{name: section})
    assert_steps_do_not_wait(config, monkeypatch)


# --- metrics ----------------------------------------------------------------------------------


def test_logged_loss_is_a_mean_of_steps_so_far(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    """And the logging interval does not change the weights."""
    once = train(tiny(log_every=2, out=tmp_path / "once"))
    lines, (mean,) = read_metrics(finished), read_metrics(once)
    for name in ("loss/content", "loss/style", "loss/adversarial", "loss/discriminator"):
        assert mean[name] == pytest.approx((lines[0][name] + lines[1][name]) / 2, rel=1e-5)
    assert equal(list(load_state(finished).values()), list(load_state(once).values()))


# --- skipped steps ----------------------------------------------------------------------------


def state_of(networks: Networks) -> dict[str, Tensor]:
    """Weights, moments and buffers, apart from the average and the spectral norm's vectors."""
    modules = {k: m for k, m in networks.modules().items() if k != "averaged"}
    state = {f"{k}/{name}": x for k, m in modules.items() for name, x in m.state_dict().items()}
    for key, optimizer in networks.optimizers().items():
        for i, slots in optimizer.state_dict()["state"].items():
            state |= {f"{key}/{i}/{slot}": x for slot, x in slots.items()}
    return {name: x.clone() for name, x in state.items() if name[-3:] not in ("._u", "._v")}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name in after if not torch.equal(before[name], after[name])]


def poisoned(value: float) -> Callable[..., Terms]:
    """``generator_terms`` with a factor on the style loss of the first image."""

    def terms(*args: object, **kwargs: object) -> Terms:
        result = generator_terms(*args, **kwargs)  # type: ignore[arg-type]
        style = result.balanced["style"]
        factor = torch.ones_like(style)
        factor[0] = value
        result.balanced["style"] = style * factor
        return result

    return terms


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_step_with_a_non_finite_loss_changes_no_weight(
    value: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny(steps=3))
    step = trainer.train_step
    first, second, third = list(trainer._batches(0))
    step.step(0, first)  # so that Adam has its moments
    before, norms, totals = state_of(trainer.networks), step.balance.norms, dict(step.totals)
    with monkeypatch.context() as patch:
        patch.setattr(train_step, "generator_terms", poisoned(value))
        step.step(1, second)
    after = state_of(trainer.networks)
    assert not changed(before, after)
    assert all(x.isfinite().all() for x in trainer.networks.averaged.state_dict().values())
    assert torch.equal(step.balance.norms, norms)
    assert all(torch.equal(step.totals[name], total) for name, total in totals.items())
    check = step.checks[-1]
    assert (check.step, float(check.skipped)) == (1, 1)
    assert check.finite.tolist() == [False, True]
    assert check.position.tolist() == [2, 3]
    step.step(2, third)
    assert step.checks[-1].skipped == 0
    assert changed(after, state_of(trainer.networks))


def test_step_with_a_non_finite_gradient_changes_no_weight(tiny: Tiny) -> None:
    trainer = Trainer(tiny())
    before = snapshot(trainer.networks.plain_generator)
    parameter = next(trainer.networks.plain_generator.to_residual.parameters())
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    trainer.train_step.step(0, next(trainer._batches(0)))
    (check,) = trainer.train_step.checks
    assert (check.skipped, check.finite.tolist()) == (1, [True, True])
    assert equal(snapshot(trainer.networks.plain_generator), before)


@pytest.mark.filterwarnings("ignore:step")
def test_run_with_too_many_skipped_steps_stops_and_keeps_its_checkpoint(
    tiny: Tiny, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "generator_terms", poisoned(float("nan")))
    with (
        pytest.warns(UserWarning, match=r"step 3 skipped.*loss for .*\d\d\.png \+ .*\d\d\.png"),
        pytest.raises(ValueError, match=r"3 of the last 5 steps had non-finite losses"),
    ):
        train(tiny(steps=40, max_skipped=0.02))
    assert saved_step(finished) == 4
    assert all(value.isfinite().all() for value in load_state(finished).values())
    line = read_metrics(finished)[2]  # of a step that does not count
    assert line["skipped"] == 1
    assert "loss/style" not in line
    assert "NaN" not in (finished / "metrics.jsonl").read_text()


def test_the_branch_learns_the_mean_error_by_one_pass_through_the_trunk(
    tiny: Tiny,
) -> None:
    n, photo, calls = Trainer(tiny("attention")).networks, torch.rand(2, 3, 48, 64), list[object]()
    assert n.codes is not None
    codes = n.codes[:3, None]
    with torch.no_grad():
        outputs = [n.plain_generator(photo, code.expand(2, -1)).image for code in codes]
    expected = torch.stack([log_structural_error(x, photo, (6, 8)) for x in outputs]).mean(0)
    n.plain_generator.trunk8.register_forward_hook(lambda *x: calls.append(x))
    torch.testing.assert_close(mean_log_error(n.plain_generator, photo, codes), expected)
    assert len(calls) == 1


# --- the attention branch alone ---------------------------------------------------------------


def alone(config: TrainConfig, steps: int = 1) -> TrainConfig:
    """After the steps of the config, train the attention branch alone."""
    attention = replace(config.attention, final_steps=steps)
    return replace(config, steps=config.steps + steps, attention=attention)


def test_last_steps_train_the_attention_branch_of_the_averaged_generator_alone(tiny: Tiny) -> None:
    config = alone(tiny(steps=3, batch_size=4, accumulate=2, keep_checkpoints=9, save_every=1), 3)
    before, after = (read_tensors(checkpoints(train(config))[i]).tensors for i in (2, 5))
    for name, x in after.items():
        if name.startswith(("generator/", "averaged/", "discriminator/")):
            assert torch.equal(x, before[name]) is ("attention" not in name), name
    images = EventAccumulator(str(config.out / "tensorboard")).Reload().Images
    assert [image.step for image in images("photo, painting, stylized, attention")] == [2, 3]


def test_branch_alone_learns_to_predict_the_error(tiny: Tiny) -> None:
    generator, optimizer = GeneratorConfig(width=32, blocks=1), OptimizerConfig(lr=1e-2)
    config = alone(
        tiny("attention", steps=1, size=64, generator=generator, optimizer=optimizer), 60
    )
    trainer, lines = Trainer(config), list[dict[str, float]]()
    batch = next(trainer._batches(0))
    for step in range(config.steps):
        trainer.train_step.step(step, batch)
        lines.append(trainer.train_step.metrics(step + 1))
    assert lines[-1]["loss/attention"] < lines[1]["loss/attention"] / 2
    assert lines[-1]["attention/prediction"] > 0.7 > lines[1]["attention/prediction"]
    assert "loss/style" in lines[0]
    assert "loss/style" not in lines[1]


@pytest.mark.parametrize("recipe", ["attention-adversarial", "gradient-balance"])
def test_a_run_can_train_the_branch_of_a_given_generator_alone(
    tiny: Tiny, write_model: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    start = write_model(tiny("multi-layer", out=tmp_path / "start"), residual=0.1)
    config = tiny(recipe, init=start, attention=AttentionConfig(final_steps=2))
    assert "2 steps of" in make_plan(config)["time"]
    initial = Trainer(config).networks.averaged.state_dict()
    trained = load_state(train(config))
    for name, x in initial.items():
        assert torch.equal(x, trained[name]) is ("attention" not in name), name
    assert [line["attention/prediction"] for line in read_metrics(config.out)]


def test_an_equally_good_generator_with_a_later_map_replaces_the_best_model(tiny: Tiny) -> None:
    run = train(alone(tiny("attention", steps=1, validate_every=1), 2))
    *_, before, after = read_metrics(run)
    assert after["validation/total"] == before["validation/total"]
    assert saved_step(run / "best") == 3


def test_branch_alone_trains_without_waiting_for_the_device(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(alone(tiny(steps=1)))
    first, second = list(trainer._batches(0))
    trainer.train_step.step(0, first)
    with no_synchronization(monkeypatch):
        assert trainer.train_step.step(1, second) is None
    metrics = trainer.train_step.metrics(2)
    assert {"attention/kl", "attention/peak", "attention/prediction"} <= metrics.keys()
