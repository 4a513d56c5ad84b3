from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from underdrawing.trainers.balance import Balance
from underdrawing.trainers.config import BalanceConfig

CPU = torch.device("cpu")


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(4, 3, 5, 5, requires_grad=True)


def terms(image: Tensor) -> dict[str, Tensor]:
    """Three terms whose gradients differ by orders of magnitude."""
    flat = image.flatten(1)
    return {
        "content": 1e5 * flat.square().mean(1),
        "style": 1e-3 * flat.sum(1),
        "adversarial": (2 * flat).sin().mean(1),
    }


def measure(balance: Balance, terms: dict[str, Tensor], image: Tensor, photo: Tensor) -> None:
    balance.measure(terms, image, photo)
    balance.update(Accelerator(cpu=True), 1)


def measured(config: BalanceConfig, image: Tensor, parts: int = 1) -> Balance:
    balance = Balance(config, CPU)
    for part in image.chunk(parts):
        balance.measure(terms(part), part, torch.zeros_like(part))
    balance.update(Accelerator(cpu=True), parts)
    return balance


@pytest.mark.parametrize(("kind", "content"), [("fixed", [1, 1, 1]), ("schedule", [2, 1, 0.5])])
def test_schedule_lowers_the_content_weight_only(kind: Any, content: list[float]) -> None:
    balance = Balance(BalanceConfig(kind, 1.0, 2.0, 3.0, shift=4.0), CPU)
    for progress, expected in zip((0, 0.5, 1), content, strict=True):
        weights = [float(w) for w in balance.weights(progress).values()]
        assert weights == pytest.approx([expected, 2, 3])


def test_gradient_shares_become_those_of_the_config(image: Tensor) -> None:
    balance = measured(BalanceConfig("gradient", 0.3, 0.6, 0.1), image)
    weights = balance.weights(0.5)
    norms = torch.stack([
        torch.autograd.grad((weights[name] * term).sum(), image, retain_graph=True)[0]
        .flatten(1).norm(dim=1).mean()
        for name, term in terms(image).items()
    ])  # fmt: skip
    assert (norms / norms.sum()).tolist() == pytest.approx([0.3, 0.6, 0.1], rel=1e-4)
    assert [float(s) for s in balance.shares(0.5).values()] == pytest.approx([0.3, 0.6, 0.1])


def test_norms_do_not_depend_on_micro_batches(image: Tensor) -> None:
    config = BalanceConfig("gradient")
    torch.testing.assert_close(measured(config, image).norms, measured(config, image, 2).norms)


def test_norms_are_a_running_mean_that_forgets_a_tenth_each_time(image: Tensor) -> None:
    """Non-finite ones and those of a missing term are left out."""
    balance = measured(BalanceConfig("gradient"), image)
    first, photo = balance.norms.clone(), torch.zeros_like(image)
    measure(balance, {name: 5 * term for name, term in terms(image).items()}, image, photo)
    expected = 0.9 * first + 0.1 * 5 * first
    torch.testing.assert_close(balance.norms, expected)
    measure(balance, {name: term * torch.inf for name, term in terms(image).items()}, image, photo)
    measure(balance, {"content": 0 * terms(image)["content"]}, image, photo)
    torch.testing.assert_close(balance.norms, expected)


def test_content_norm_is_not_measured_while_the_output_is_the_photo(image: Tensor) -> None:
    """Its gradient is rounding error there, by which the weight would be divided."""
    balance, photo = Balance(BalanceConfig("gradient", 0.3, 0.6, 0.1), CPU), image.detach() + 1e-6
    content = (image - photo).square().mean(dim=(1, 2, 3))
    measure(balance, terms(image) | {"content": content}, image, photo)
    assert float(balance.norms[0]) == 0
    assert float(balance.weights(0)["content"]) == pytest.approx(0.3)
    assert float(balance.weights(0)["style"] * balance.norms[1]) == pytest.approx(0.6)

    balance = measured(BalanceConfig("gradient"), image)
    before = balance.norms.clone()
    measure(balance, terms(image), image, photo)
    torch.testing.assert_close(balance.norms, before)  # kept, not mixed with 0
