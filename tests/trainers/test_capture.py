"""The recorded step computes what the eager one does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from underdrawing.trainers import train_step
from underdrawing.trainers.capture import Captured
from underdrawing.trainers.config import AdversarialConfig, BalanceConfig, TrainConfig
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]
CHANGES: list[dict[str, Any]] = [
    {},
    {"batch_size": 4, "accumulate": 2, "balance": BalanceConfig(kind="gradient", every=2)},
    {
        "balance": BalanceConfig(kind="schedule"),
        "adversarial": AdversarialConfig(
            width=8, spectral_norm=True, r1=1.0, feature_matching=1.0
        ),
    },
]  # fmt: skip


def run(config: TrainConfig, steps: int = 4) -> tuple[Tensor, dict[str, float], list[Tensor]]:
    """Train; return all weights, metrics, and the stylized images of each step."""
    trainer = Trainer(replace(config, steps=steps, log_every=3))
    assert trainer.device.type == config.device
    step, batches = trainer.train_step, enumerate(trainer._batches(0))
    images = [step.step(number, raw)[2].clone() for number, raw in batches]
    modules = trainer.networks.modules().values()
    weights = torch.cat([p.detach().flatten() for m in modules for p in m.parameters()])
    assert sum(float(check.skipped) for check in step.checks) == 0
    return weights, step.metrics(steps), images


class Replayed(Captured[Any]):
    """Record and replay on a CPU: each variant always reads its inputs from the same memory."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.variants = function, set[tuple[bool, ...]]()
        self.inputs: dict[str, Tensor] = {}

    def __call__(self, inputs: Mapping[str, Tensor], *variant: bool) -> Any:
        self.inputs = self.inputs or {name: torch.empty_like(x) for name, x in inputs.items()}
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
    config = tiny(**changes)
    expected, metrics, _ = run(config)
    replays = list[Replayed]()

    class Recorded(train_step.TrainStep):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._run = Replayed(self._learn)
            replays.append(self._run)

    monkeypatch.setattr("underdrawing.trainers.trainer.TrainStep", Recorded)
    weights, found, _ = run(config)
    assert torch.equal(weights, expected)
    assert found == metrics

    assert len(replays[0].variants) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", CHANGES)
def test_recorded_steps_equal_eager_ones_on_a_gpu(changes: dict[str, Any], tiny: Tiny) -> None:
    """Up to what two eager runs differ by: the backward of reflection padding adds atomically."""
    config = tiny(device="cuda", **changes)
    eager, again, recorded = (run(replace(config, cuda_graphs=x), 12) for x in (False, False, True))
    for step, (x, y) in enumerate(zip(eager[2], recorded[2], strict=True)):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3, msg=f"step {step}")
    noise = (eager[0] - again[0]).norm()
    assert (eager[0] - recorded[0]).norm() <= 3 * noise + 1e-4 * eager[0].norm()
    for name, value in eager[1].items():
        assert recorded[1][name] == pytest.approx(value, rel=2e-2, abs=2e-2), name
