"""The recorded step computes what the eager one does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from underdrawing.trainers import train_step
from underdrawing.trainers.capture import WARM_UP, Captured
from underdrawing.trainers.config import (
    AdversarialConfig,
    AttentionConfig,
    BalanceConfig,
    TrainConfig,
)
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]
CHANGES: list[dict[str, Any]] = [
    {},
    {"batch_size": 4, "accumulate": 2},
    {"balance": BalanceConfig(kind="gradient", every=3)},
    {"balance": BalanceConfig(kind="schedule")},
    {"adversarial": AdversarialConfig(width=8, spectral_norm=True, r1=1.0, feature_matching=1.0)},
    {"attention": AttentionConfig(final_steps=5)},
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def run(config: TrainConfig) -> tuple[Tensor, dict[str, float], list[Tensor]]:
    """Train; return all weights, metrics, and the stylized images of each step that has some."""
    trainer = Trainer(replace(config, log_every=4))
    assert trainer.device.type == config.device
    images = [
        found[2].clone()
        for step, raw in enumerate(trainer._batches(0))
        if (found := trainer.train_step.step(step, raw))
    ]
    modules = trainer.networks.modules().values()
    weights = torch.cat([p.detach().flatten() for m in modules for p in m.parameters()])
    assert sum(float(check.skipped) for check in trainer.train_step.checks) == 0
    return weights, trainer.train_step.metrics(config.steps), images


class Replayed(Captured[Any]):
    """Record and replay on a CPU: each variant always reads its inputs from the same memory."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls, self.variants = function, 0, set[tuple[bool, ...]]()
        self.inputs: dict[str, Tensor] = {}

    def __call__(self, inputs: Mapping[str, Tensor], *variant: bool) -> Any:
        self.calls += 1
        if self.calls == 1:
            self.inputs = {name: torch.empty_like(x) for name, x in inputs.items()}
        assert self.inputs.keys() == inputs.keys()
        self.variants.add(variant)
        for name, x in inputs.items():
            assert x.shape == self.inputs[name].shape, name
            self.inputs[name].copy_(x)
        return self.function(self.inputs, *variant)


@pytest.mark.parametrize("changes", CHANGES)
def test_all_that_differs_between_steps_is_in_the_inputs(
    changes: dict[str, Any], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the host's batch nor the step is read: the recorded work would keep the first."""
    config = tiny(**{"steps": 8} | changes)
    expected, metrics, _ = run(config)
    replays = list[Replayed]()

    class Recorded(train_step.TrainStep):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._run = Replayed(self._learn)
            self._run_alone = Replayed(self._learn_attention)
            replays.extend([self._run, self._run_alone])

    monkeypatch.setattr("underdrawing.trainers.trainer.TrainStep", Recorded)
    weights, found, _ = run(config)
    assert torch.equal(weights, expected)
    assert found == metrics
    alone = config.attention.final_steps or 0
    assert [replay.calls for replay in replays] == [8 - alone, alone]
    assert len(replays[0].variants) > 1


def test_calls_after_the_first_are_replays_of_one_recording_per_variant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With graphs that repeat an addition on the memory of the recorded call."""
    calls = list[tuple[bool, ...]]()
    output = torch.zeros(())

    def function(inputs: Mapping[str, Tensor], *variant: bool) -> Tensor:
        calls.append(variant)
        return output.copy_(inputs["x"] + 1)

    class Graph:
        def replay(self) -> None:
            output.copy_(captured.inputs["x"] + 1)

    @contextmanager
    def record(*_: object, **__: object) -> Iterator[None]:
        yield

    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", record)
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x, device: empty_like(x))
    captured = Captured(function)
    for i in range(WARM_UP + 5):
        assert captured({"x": torch.tensor(float(i))}, i % 2 == 0) == i + 1
    assert len(calls) == WARM_UP + 2  # each of the two variants is recorded once


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("changes", CHANGES)
def test_recorded_steps_equal_eager_ones_on_a_gpu(changes: dict[str, Any], tiny: Tiny) -> None:
    """Up to what two eager runs differ by: the backward of reflection padding adds atomically."""
    config = tiny(**{"device": "cuda", "steps": 12} | changes)
    eager, again, recorded = (run(replace(config, cuda_graphs=x)) for x in (False, False, True))
    for step, (x, y) in enumerate(zip(eager[2], recorded[2], strict=True)):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3, msg=f"step {step}")
    noise = (eager[0] - again[0]).norm()
    assert (eager[0] - recorded[0]).norm() <= 3 * noise + 1e-4 * eager[0].norm()
    for name, value in eager[1].items():
        assert recorded[1][name] == pytest.approx(value, rel=2e-2, abs=2e-2), name
