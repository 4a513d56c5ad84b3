import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from underdrawing.data.dataset import Batch
from underdrawing.data.image_cache import CachedImages, UncachedImages
from underdrawing.experiments.recipes import RECIPES
from underdrawing.losses.attention import OBJECTIVES, TARGETS
from underdrawing.trainers import steps, train_step
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import AdversarialConfig, TrainConfig
from underdrawing.trainers.model_files import load_state
from underdrawing.trainers.train_step import forward, generator_terms
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]

#: Operators whose result the host has to wait for.
WAITING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2",
    "_linalg_check_errors", "_assert_async", "bincount",
}  # fmt: skip


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- nothing in a step waits for the device ---------------------------------------------------


class _Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.overloadpacket.__name__ in WAITING:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, whoever reads a number from a tensor fails: by an operator (``item``, ``float``,
    ``if``), or by a method that goes to the memory without one.
    """

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is read")

    with monkeypatch.context() as patch, _Refusing():
        for name in ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__"):
            patch.setattr(Tensor, name, refuse)
        yield


@pytest.mark.parametrize(
    "read",
    [float, bool, int, torch.nonzero, lambda x: x.item(), lambda x: x.tolist(), lambda x: x.cpu()],
)
def test_reading_is_noticed(
    read: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError), no_reading(monkeypatch):
        read(torch.ones(()))


def assert_nothing_is_read(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two steps, of which one measures the balance and the other logs."""
    trainer = Trainer(replace(config, log_every=2))
    batches = list(trainer._batches(0))
    with no_reading(monkeypatch):
        for step, batch in enumerate(batches):
            trainer.train_step.step(step, batch)
    assert trainer.train_step.figures(config.steps)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_reads_from_the_device(
    recipe: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_nothing_is_read(tiny(recipe), monkeypatch)


@pytest.mark.parametrize(
    ("objective", "target"),
    [(o, "structural") for o in OBJECTIVES] + [("learned", target) for target in TARGETS],
)
def test_no_attention_reads_from_the_device(
    objective: str, target: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("attention")
    attention = replace(config.attention, objective=objective, target=target, channels=True)  # type: ignore[arg-type]
    assert_nothing_is_read(replace(config, attention=attention), monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"batch_size": 4, "accumulate": 2},
        {"adversarial": AdversarialConfig(width=8, r1=1.0, feature_matching=1.0)},
    ],
)
def test_no_option_reads_from_the_device(
    changes: dict[str, object], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_nothing_is_read(tiny(**changes), monkeypatch)


# --- what is logged ---------------------------------------------------------------------------


def test_the_maps_statistics_are_computed_on_logging_steps_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, statistics = [], steps.attention_statistics

    def counting(attention: Tensor, error: Tensor) -> object:
        computed.append(len(attention))
        return statistics(attention, error)

    monkeypatch.setattr(steps, "attention_statistics", counting)
    run = train(tiny("attention", steps=5, log_every=2))
    assert [line["step"] for line in metrics(run)] == [2, 4, 5]
    assert computed == [2, 2, 2]
    names = {"attention/peak", "attention/kl", "attention/correlation"}
    assert all(names <= set(line) for line in metrics(run))


def test_a_logged_loss_is_the_mean_since_the_last_line(tiny: Tiny, tmp_path: Path) -> None:
    each = metrics(train(tiny(steps=4, log_every=1, out=tmp_path / "each")))
    pairs = metrics(train(tiny(steps=4, log_every=2, out=tmp_path / "pairs")))
    for name in ("loss/content", "loss/style", "loss/adversarial", "loss/discriminator"):
        means = [(each[i][name] + each[i + 1][name]) / 2 for i in (0, 2)]
        assert [line[name] for line in pairs] == pytest.approx(means, rel=1e-5)


def test_logging_does_not_change_the_training(tiny: Tiny, tmp_path: Path) -> None:
    often = load_state(train(tiny(steps=3, log_every=1, out=tmp_path / "often")))
    seldom = load_state(train(tiny(steps=3, log_every=3, out=tmp_path / "seldom")))
    assert all(torch.equal(often[key], value) for key, value in seldom.items())


# --- where the pictures come from -------------------------------------------------------------


def test_prepared_pictures_give_the_same_weights_to_the_last_bit(
    tiny: Tiny, tmp_path: Path
) -> None:
    prepared = tiny(steps=3, prepare=True, out=tmp_path / "prepared")
    decoded = replace(prepared, prepare=False, out=tmp_path / "decoded")
    assert isinstance(Trainer(prepared).dataset.photos, CachedImages)
    assert isinstance(Trainer(decoded).dataset.photos, UncachedImages)
    ours, theirs = load_state(train(prepared)), load_state(train(decoded))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert metrics(prepared.out) == metrics(decoded.out)


# --- steps that do not count ------------------------------------------------------------------


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    n = trainer.networks
    state = {
        f"{a}/{b}": x.clone() for a, m in n.modules().items() for b, x in m.state_dict().items()
    }
    for name, optimizer in n.optimizers().items():
        for index, slots in optimizer.state_dict()["state"].items():
            state |= {f"{name}/{index}/{slot}": x.clone() for slot, x in slots.items()}
    return state


def painting(state: dict[str, Tensor]) -> list[float]:
    return next(x.flatten().tolist() for name, x in state.items() if "generator/paint" in name)


def poison(name: str, value: float) -> Callable[..., object]:
    """``generator_terms`` whose term of that name is ``value`` for the batch's first picture."""

    def terms(*args: object, **kwargs: object) -> steps.Terms:
        found = generator_terms(*args, **kwargs)  # type: ignore[arg-type]
        term = found.balanced[name]
        factor = torch.ones_like(term)
        factor[0] = value
        found.balanced[name] = term * factor
        return found

    return terms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_step_that_is_not_finite_changes_no_weight(
    value: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny(steps=3))
    first, second, third = list(trainer._batches(0))
    trainer.train_step.step(0, first)  # so that the moments are there
    norms = trainer.train_step.balance.norms.clone()
    before, totals = state_of(trainer), dict(trainer.train_step.totals)
    with monkeypatch.context() as patch:
        patch.setattr(train_step, "generator_terms", poison("style", value))
        trainer.train_step.step(1, second)
    after = state_of(trainer)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not [n for n in moved if not n.startswith("averaged/") and n[-3:] not in ("._u", "._v")]
    assert all(x.isfinite().all() for x in after.values())
    assert torch.equal(trainer.train_step.balance.norms, norms)
    assert all(
        torch.equal(trainer.train_step.totals[name], total) for name, total in totals.items()
    )
    check = trainer.train_step.checks[-1]
    assert check.skipped == 1
    assert check.finite.tolist() == [False, True]
    assert check.position.tolist() == [2, 3]
    trainer.train_step.step(2, third)
    assert trainer.train_step.checks[-1].skipped == 0
    assert painting(state_of(trainer)) != painting(after)


def test_a_gradient_that_is_not_finite_is_noticed_without_a_bad_loss(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny())
    before = state_of(trainer)
    parameter = next(trainer.networks.plain_generator.paint.parameters())
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    trainer.train_step.step(0, next(trainer._batches(0)))
    check = trainer.train_step.checks[-1]
    assert check.skipped == 1
    assert check.finite.all()
    assert painting(state_of(trainer)) == painting(before)


def test_a_run_of_bad_steps_ends_and_keeps_its_last_checkpoint(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(steps=40, save_every=2, log_every=1, max_skipped=0.05)
    run = train(replace(config, steps=4))
    saved = (run / "model.safetensors").read_bytes()
    monkeypatch.setattr(train_step, "generator_terms", poison("style", float("nan")))
    with (
        pytest.warns(UserWarning, match=r"step 5 was skipped.*\d\d\.png with .*\d\d\.png"),
        pytest.raises(ValueError, match=r"6 of the last 10 steps .* not finite"),
    ):
        train(config)
    assert saved_step(run) == 8
    state = load_state(run)
    assert all(value.isfinite().all() for value in state.values())
    assert saved != (run / "model.safetensors").read_bytes()  # the average came closer


def test_a_line_without_a_step_that_counts_has_no_losses(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "generator_terms", poison("style", float("nan")))
    config = tiny(steps=1, max_skipped=1.0)
    with pytest.warns(UserWarning, match="step 1 was skipped"):
        run = train(config)
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text
    (line,) = map(json.loads, text.splitlines())
    assert line["skipped"] == 1
    assert "loss/style" not in line


# --- memory -----------------------------------------------------------------------------------


def short_of_memory(most: int) -> Callable[..., object]:
    """``perceive`` on a device with room for this many pictures."""

    def limited(networks: object, batch: Batch, config: TrainConfig) -> steps.ForwardResult:
        if len(batch["content"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(networks, batch, config)  # type: ignore[arg-type]

    return limited


def test_out_of_memory_goes_on_with_smaller_micro_batches(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(batch_size=6, steps=3)
    split = train(replace(config, accumulate=3, out=tmp_path / "split"))
    monkeypatch.setattr(train_step, "perceive", short_of_memory(2))
    with pytest.warns(UserWarning, match="going on with 3 micro-batches of 2 picture") as caught:
        short = train(replace(config, out=tmp_path / "short"))
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 2  # 1, 2, then 3 parts
    ours, theirs = load_state(short), load_state(split)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert metrics(short) == metrics(split)


def test_memory_that_runs_out_late_leaves_nothing_half_done(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After G's backward, in D's forward: the gradients begun are forgotten."""
    config = tiny("gradient-balance", batch_size=4, steps=3)
    split = train(replace(config, accumulate=2, out=tmp_path / "split"))
    loss = train_step.discriminator_loss

    def limited(discriminator: object, scene: steps.ForwardResult, config: TrainConfig) -> object:
        if len(scene.batch["content"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return loss(discriminator, scene, config)  # type: ignore[arg-type]

    monkeypatch.setattr(train_step, "discriminator_loss", limited)
    with pytest.warns(UserWarning, match="2 micro-batches of 2"):
        short = train(replace(config, out=tmp_path / "short"))
    ours, theirs = load_state(short), load_state(split)
    largest = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    assert largest < 2e-4  # the measurement before step 0 was of the whole batch


def test_no_smaller_micro_batch_is_one_sentence(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "perceive", short_of_memory(0))
    with (
        pytest.warns(UserWarning, match="2 micro-batches of 1"),
        pytest.raises(
            ValueError, match=r"out of memory at 1 picture\(s\) of 32 px .* lower --size"
        ),
    ):
        train(tiny())
