"""``compile=True`` computes the same losses and gradients as eager execution."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from underdrawing.trainers.config import (
    AdversarialConfig,
    AttentionConfig,
    ContentConfig,
    GeneratorConfig,
    StyleConfig,
    TrainConfig,
)
from underdrawing.trainers.trainer import Trainer

Tiny = Callable[..., TrainConfig]
Result = tuple[dict[str, Tensor], dict[str, Tensor]]

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="torch.compile needs a C++ compiler and Python.h",
)


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    """Remove compiled code, and restore the switch that compiling changes."""
    before = torch._functorch.config.donated_buffer
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = before


def first_step(config: TrainConfig, patch: pytest.MonkeyPatch) -> Result:
    """Return losses and gradients of the first step, with a generator that changes the photo.

    Gradients are not clipped, and the balance is measured, which needs more backward passes.
    """
    config = replace(
        config,
        balance=replace(config.balance, every=1), optimizer=replace(config.optimizer, clip=1e9),
    )  # fmt: skip
    trainer, gradients = Trainer(config), dict[str, Tensor]()
    torch.manual_seed(1)
    for parameter in trainer.networks.plain_generator.to_residual.parameters():
        nn.init.normal_(parameter, std=0.05)
    modules = trainer.networks.modules()
    for key, optimizer in trainer.networks.optimizers().items():
        module = modules["generator" if key == "optimizer_g" else "discriminator"]

        def keep(key: str = key, module: nn.Module = module) -> None:
            for name, p in module.named_parameters():
                if p.grad is not None:
                    gradients[f"{key}.{name}"] = p.grad.clone()

        patch.setattr(optimizer, "step", keep)
    trainer.train_step.step(0, next(trainer._batches(0)))
    return trainer.train_step.totals, gradients


def assert_close(compiled: Result, eager: Result) -> None:
    """To 1e-4, and 1e-5 of the largest: the gradient of a bias before a norm is only rounding."""
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours.keys() == theirs.keys()
        largest = max(x.norm() for x in theirs.values())
        for name, expected in theirs.items():
            difference = (ours[name] - expected).norm()
            assert difference <= 1e-4 * expected.norm() + 1e-5 * largest, name


def small(tiny: Tiny) -> TrainConfig:
    """Few layers, as each takes a while to compile."""
    return tiny(
        generator=GeneratorConfig(width=8, blocks=0),
        adversarial=AdversarialConfig(width=8, layers=1, spectral_norm=False),
        style=StyleConfig(layers=("relu1_1",)),
        content=ContentConfig(layers=(("conv1_1", 1.0),)),
    )


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",  # without generated code: the graphs run on torch's kernels
        pytest.param("inductor", marks=[pytest.mark.long, needs_compiler]),
    ],
)
def test_compiled_step_equals_the_eager_one(
    backend: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, compiled = nn.Module.compile, list[str]()

    def compile_with(module: nn.Module, dynamic: bool) -> None:
        compiled.append(type(module).__name__)
        method(module, backend=backend, dynamic=dynamic)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(nn.Module, "compile", compile_with)
    config = small(tiny)
    if backend == "inductor":  # takes a minute with a branch
        config = replace(config, attention=AttentionConfig(objective="oracle"))
    eager = first_step(config, monkeypatch)
    assert_close(first_step(replace(config, compile=True), monkeypatch), eager)
    assert compiled == ["Generator", "PatchGAN"]
    assert bool([*(tmp_path / "compiled").rglob("*.cpp")]) == (backend == "inductor")
