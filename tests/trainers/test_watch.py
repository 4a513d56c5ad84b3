import warnings
from collections.abc import Callable

import pytest
import torch
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.learner import StepCheck
from underdrawing.trainers.watch import Watch, complaints

CONFIG = TrainConfig()
HEALTHY = {
    "attention/kl": 0.3, "attention/peak": 4.0, "discriminator/accuracy": 0.8,
    "validation/memorised": 0.2, "output/change": 0.1,
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
    assert not list(complaints(HEALTHY, CONFIG))
    assert not list(complaints({}, CONFIG))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("attention/kl", 0.001, "attention is flat"),
        ("attention/kl", 3.0, "attention has collapsed"),
        ("attention/peak", 600.0, "attention has collapsed"),
        ("discriminator/accuracy", 0.999, "tells 100% of the patches right"),
        ("validation/memorised", 0.9, "knows the training paintings by heart .*0.90"),
        ("output/change", 0.001, "outputs equal their photos"),
    ],
)
def test_each_illness_is_said_once(name: str, value: float, sentence: str) -> None:
    watch = Watch(CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.figures(LATE - 1, HEALTHY | {name: value})  # too early to tell
    with pytest.warns(UserWarning, match=f"step {LATE}: .*{sentence}"):
        watch.figures(LATE, HEALTHY | {name: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.figures(LATE + 1, HEALTHY | {name: value})


def test_the_pictures_to_blame_are_named() -> None:
    watch = Watch(CONFIG)
    with pytest.warns(UserWarning, match=r"step 4 was skipped.*loss of photo 7$"):
        watch.steps([check(2, False), check(3, True, [False, True])], names)
    assert watch.skipped == 1


@pytest.mark.parametrize("speaks", [True, False])
def test_a_gradient_without_a_bad_loss_is_told_once_for_all_processes(speaks: bool) -> None:
    watch = Watch(CONFIG, speaks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.steps([check(3, True)], names)
    expected = "step 4 was skipped: not finite is the gradient, with photo 6; photo 7"
    assert [str(warning.message) for warning in caught] == ([expected] if speaks else [])


def test_pictures_of_this_process_are_not_blamed_for_anothers_loss() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Watch(CONFIG).steps([check(3, True, [False, False])], names)


@pytest.mark.filterwarnings("ignore:step")
def test_a_run_ends_when_too_many_steps_are_skipped() -> None:
    watch = Watch(CONFIG)
    share = int(CONFIG.max_skipped * 100)
    watch.steps([check(step, step < share) for step in range(200)], names)
    assert (watch.skipped, watch.window) == (share, 0)
    with pytest.raises(ValueError, match=r"11 of the last 11 steps .* not finite; begin anew"):
        watch.steps([check(step, True) for step in range(200, 300)], names)


@pytest.mark.filterwarnings("ignore:step")
def test_the_count_survives_a_checkpoint() -> None:
    before, after = Watch(CONFIG), Watch(CONFIG)
    before.steps([check(step, step > 95) for step in range(90, 105)], names)
    after.restore(before.state())
    assert (after.skipped, after.window) == (9, 5)
