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


def measured(config: BalanceConfig, image: Tensor, parts: int = 1) -> Balance:
    balance = Balance(config, CPU)
    for part in image.chunk(parts):
        balance.measure(terms(part), part, torch.zeros_like(part))
    balance.update(Accelerator(cpu=True), parts)
    return balance


def test_fixed_weights_are_those_of_the_config() -> None:
    weights = Balance(BalanceConfig("fixed", 1.0, 2.0, 3.0), CPU).weights(0.7)
    assert [float(w) for w in weights.values()] == [1, 2, 3]


def test_schedule_lowers_the_content_weight_only() -> None:
    balance = Balance(BalanceConfig("schedule", 1.0, 2.0, 3.0, shift=4.0), CPU)
    content = [float(balance.weights(progress)["content"]) for progress in (0, 0.5, 1)]
    assert content == pytest.approx([2, 1, 0.5])
    assert float(balance.weights(0.0)["style"]) == 2


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
    balance = measured(BalanceConfig("gradient"), image)
    first = balance.norms.clone()
    larger = {name: 5 * term for name, term in terms(image).items()}
    balance.measure(larger, image, torch.zeros_like(image))
    balance.update(Accelerator(cpu=True), 1)
    torch.testing.assert_close(balance.norms, 0.9 * first + 0.1 * 5 * first)


def test_non_finite_norms_are_ignored(image: Tensor) -> None:
    balance = measured(BalanceConfig("gradient"), image)
    before = balance.norms.clone()
    infinite = {name: term * torch.inf for name, term in terms(image).items()}
    balance.measure(infinite, image, torch.zeros_like(image))
    balance.update(Accelerator(cpu=True), 1)
    assert torch.equal(balance.norms, before)


def test_content_norm_is_not_measured_while_the_output_is_the_photo(image: Tensor) -> None:
    """Its gradient is rounding error there, by which the weight would be divided."""
    balance, photo = Balance(BalanceConfig("gradient", 0.3, 0.6, 0.1), CPU), image.detach() + 1e-6
    content = (image - photo).square().mean(dim=(1, 2, 3))
    balance.measure(terms(image) | {"content": content}, image, photo)
    balance.update(Accelerator(cpu=True), 1)
    assert float(balance.norms[0]) == 0
    assert float(balance.weights(0)["content"]) == pytest.approx(0.3)
    assert float(balance.weights(0)["style"] * balance.norms[1]) == pytest.approx(0.6)

    balance = measured(BalanceConfig("gradient"), image)
    before = balance.norms.clone()
    balance.measure(terms(image), image, photo)
    balance.update(Accelerator(cpu=True), 1)
    torch.testing.assert_close(balance.norms, before)  # kept, not mixed with 0


def test_missing_term_has_no_share(image: Tensor) -> None:
    balance = Balance(BalanceConfig("gradient", 0.5, 0.5, 0.0), CPU)
    two = {name: term for name, term in terms(image).items() if name != "adversarial"}
    balance.measure(two, image, torch.zeros_like(image))
    balance.update(Accelerator(cpu=True), 1)
    assert float(balance.shares(0.0)["adversarial"]) == 0
