"""``compile=True`` against eager: the same losses and gradients."""

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
    reason="torch.compile writes C++, and there is no compiler, or no Python.h, for it here",
)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """No compiled code from before, none left; and the switch that compiling moves put back."""
    before = torch._functorch.config.donated_buffer
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = before


def step_of(config: TrainConfig, patch: pytest.MonkeyPatch) -> Result:
    """Losses and gradients, G's and D's, of a run's first step from weights that paint already."""
    trainer = Trainer(config)
    networks, gradients = trainer.networks, {}
    torch.manual_seed(1)
    for parameter in networks.plain_generator.paint.parameters():
        nn.init.normal_(parameter, std=0.05)

    def keep(name: str, module: nn.Module) -> Callable[[], None]:
        def step() -> None:
            found = {f"{name}.{key}": p.grad for key, p in module.named_parameters()}
            gradients.update({key: g.clone() for key, g in found.items() if g is not None})

        return step

    assert networks.plain_discriminator is not None
    optimizers = networks.optimizers()
    patch.setattr(optimizers["optimizer_g"], "step", keep("g", networks.plain_generator))
    patch.setattr(optimizers["optimizer_d"], "step", keep("d", networks.plain_discriminator))
    trainer.train_step.step(0, next(trainer._batches(0)))
    return trainer.train_step.totals, gradients


def assert_same(compiled: Result, eager: Result) -> None:
    """To 1e-4, and 1e-5 of the largest: a bias before a norm has only rounding for a gradient."""
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours.keys() == theirs.keys()
        largest = max(x.norm() for x in theirs.values())
        for name, expected in theirs.items():
            difference = (ours[name] - expected).norm()
            assert difference <= 1e-4 * expected.norm() + 1e-5 * largest, name


def measured(config: TrainConfig, **changes: object) -> TrainConfig:
    """Gradients unclipped, and the balance measured, which runs the backward four times."""
    balance, optimizer = replace(config.balance, every=1), replace(config.optimizer, clip=1e9)
    return replace(config, balance=balance, optimizer=optimizer, **changes)  # type: ignore[arg-type]


def few_layers(tiny: Tiny, **changes: object) -> TrainConfig:
    """As little to compile as there can be: every kernel costs a second."""
    config = tiny(
        generator=GeneratorConfig(width=8, blocks=0),
        attention=AttentionConfig(objective="oracle"),  # no branch
        adversarial=AdversarialConfig(width=8, layers=1, spectral=False),
        style=StyleConfig(layers=("relu1_1",)),
        content=ContentConfig(layers=(("conv1_1", 1.0),)),
    )
    return measured(config, **changes)


def test_compiled_graphs_run_the_same_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks are captured, forward and backward, with the graphs run by torch's own kernels:
    what is left out is the code that is written for them.
    """
    method, backends = nn.Module.compile, []

    def without_code(module: nn.Module) -> None:
        backends.append(type(module).__name__)
        method(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_code)
    eager = step_of(measured(tiny()), monkeypatch)
    compiled = step_of(measured(tiny(), compile=True), monkeypatch)
    assert backends == ["Encoder", "Generator", "PatchGAN"]
    assert_same(compiled, eager)


@needs_compiler
@pytest.mark.long
def test_compiled_code_computes_the_same_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    eager = step_of(few_layers(tiny), monkeypatch)
    compiled = step_of(few_layers(tiny, compile=True), monkeypatch)
    assert list((tmp_path / "compiled").rglob("*.cpp"))
    assert_same(compiled, eager)
