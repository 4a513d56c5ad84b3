import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from underdrawing.data.prepared import Decoded, Prepared
from underdrawing.experiments.recipes import RECIPES
from underdrawing.losses.attention import OBJECTIVES, TARGETS
from underdrawing.trainers import steps
from underdrawing.trainers.config import AdversarialConfig, TrainConfig
from underdrawing.trainers.model_files import load_state
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
            trainer.learner.step(step, batch)
    assert trainer.learner.figures(config.steps)


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
    assert isinstance(Trainer(prepared).dataset.photos, Prepared)
    assert isinstance(Trainer(decoded).dataset.photos, Decoded)
    ours, theirs = load_state(train(prepared)), load_state(train(decoded))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert metrics(prepared.out) == metrics(decoded.out)
