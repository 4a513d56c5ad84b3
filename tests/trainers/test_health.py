import warnings
from collections.abc import Callable

import pytest
import torch
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.health import HealthMonitor, health_warnings
from underdrawing.trainers.train_step import StepCheck

CONFIG = TrainConfig()
HEALTHY = {
    "attention/kl": 0.3, "attention/peak": 4.0, "discriminator/accuracy": 0.8,
    "validation/memorized": 0.2, "output/change": 0.1,
}  # fmt: skip
LATE = CONFIG.optimizer.warmup * 5 + 1
Words = Callable[[int], str]


def names(position: int) -> str:
    return f"photo {position}"


def check(step: int, skipped: bool, bad: list[bool] | None = None) -> StepCheck:
    finite = ~torch.tensor(bad or [False, False])
    losses = torch.tensor(float(bad is not None))
    positions = torch.tensor([2 * step, 2 * step + 1])
    return StepCheck(step, torch.tensor(float(skipped)), losses, finite, positions)


def test_a_healthy_run_is_not_spoken_of() -> None:
    assert not list(health_warnings(HEALTHY, CONFIG))
    assert not list(health_warnings({}, CONFIG))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("attention/kl", 0.001, "attention is flat"),
        ("attention/kl", 3.0, "attention has collapsed"),
        ("attention/peak", 600.0, "attention has collapsed"),
        ("discriminator/accuracy", 0.999, "tells 100% of the patches right"),
        ("validation/memorized", 0.9, "knows the training paintings by heart .*0.90"),
        ("output/change", 0.001, "outputs equal their photos"),
    ],
)
def test_each_illness_is_said_once(name: str, value: float, sentence: str) -> None:
    health_monitor = HealthMonitor(CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        health_monitor.figures(LATE - 1, HEALTHY | {name: value})  # too early to tell
    with pytest.warns(UserWarning, match=f"step {LATE}: .*{sentence}"):
        health_monitor.figures(LATE, HEALTHY | {name: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        health_monitor.figures(LATE + 1, HEALTHY | {name: value})


def test_the_pictures_to_blame_are_named() -> None:
    health_monitor = HealthMonitor(CONFIG)
    with pytest.warns(UserWarning, match=r"step 4 was skipped.*loss of photo 7$"):
        health_monitor.steps([check(2, False), check(3, True, [False, True])], names)
    assert health_monitor.skipped == 1


@pytest.mark.parametrize("speaks", [True, False])
def test_a_gradient_without_a_bad_loss_is_told_once_for_all_processes(speaks: bool) -> None:
    health_monitor = HealthMonitor(CONFIG, speaks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        health_monitor.steps([check(3, True)], names)
    expected = "step 4 was skipped: not finite is the gradient, with photo 6; photo 7"
    assert [str(warning.message) for warning in caught] == ([expected] if speaks else [])


def test_pictures_of_this_process_are_not_blamed_for_anothers_loss() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HealthMonitor(CONFIG).steps([check(3, True, [False, False])], names)


@pytest.mark.filterwarnings("ignore:step")
def test_a_run_ends_when_too_many_steps_are_skipped() -> None:
    health_monitor = HealthMonitor(CONFIG)
    share = int(CONFIG.max_skipped * 100)
    health_monitor.steps([check(step, step < share) for step in range(200)], names)
    assert (health_monitor.skipped, health_monitor.window) == (share, 0)
    with pytest.raises(ValueError, match=r"11 of the last 11 steps .* not finite; begin anew"):
        health_monitor.steps([check(step, True) for step in range(200, 300)], names)


@pytest.mark.filterwarnings("ignore:step")
def test_the_count_survives_a_checkpoint() -> None:
    before, after = HealthMonitor(CONFIG), HealthMonitor(CONFIG)
    before.steps([check(step, step > 95) for step in range(90, 105)], names)
    after.restore(before.state())
    assert (after.skipped, after.window) == (9, 5)
