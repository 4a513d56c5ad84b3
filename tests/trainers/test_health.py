import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.health import BLIND_AFTER, HealthMonitor, health_warnings
from underdrawing.trainers.train_step import StepCheck

CONFIG = TrainConfig()
HEALTHY = {
    "attention/kl": 0.3, "attention/peak": 4.0, "discriminator/accuracy": 0.8,
    "validation/memorized": 0.2, "validation/accuracy": 0.8, "output/change": 0.1,
}  # fmt: skip
LATE = CONFIG.optimizer.warmup * 5 + 1


def pair_name(position: int) -> str:
    return f"pair {position}"


def check(step: int, skipped: bool, finite: tuple[bool, bool] = (True, True)) -> StepCheck:
    positions = torch.tensor([2 * step, 2 * step + 1])
    return StepCheck(step, torch.tensor(float(skipped)), torch.tensor(finite), positions)


def messages(monitor: HealthMonitor, *checks: StepCheck) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.check_steps(checks, pair_name)
    return [str(warning.message) for warning in caught]


def test_no_warning_for_healthy_metrics() -> None:
    assert not [*health_warnings(HEALTHY, CONFIG), *health_warnings({}, CONFIG)]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("attention/kl", 0.001, "attention is flat"),
        ("attention/kl", 3.0, "attention has collapsed"),
        ("attention/peak", 600.0, "attention has collapsed"),
        ("discriminator/accuracy", 0.999, "discriminator accuracy is 100%"),
        ("validation/accuracy", 0.51, r"held-out images is 51% \(chance level\)"),
        ("validation/memorized", 0.9, r"discriminator is overfitting \(r_v = 0.90"),
        ("output/change", 0.001, "outputs equal their photos"),
    ],
)
def test_warnings_are_given_once_after_first_steps(name: str, value: float, sentence: str) -> None:
    monitor, metrics = HealthMonitor(CONFIG), HEALTHY | {name: value}
    late = BLIND_AFTER if name == "validation/accuracy" else LATE  # a discriminator needs time
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.check_metrics(late - 1, metrics)
    with pytest.warns(UserWarning, match=f"step {late}: .*{sentence}"):
        monitor.check_metrics(late, metrics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.check_metrics(late + 1, metrics)


@pytest.mark.parametrize("is_main", [True, False])
def test_images_with_a_non_finite_loss_are_named_by_their_process(is_main: bool) -> None:
    """And other causes by the main process."""
    monitor = HealthMonitor(CONFIG, is_main)
    found = messages(monitor, check(2, False), check(3, True, (True, False)), check(4, True))
    other = (
        "step 5 skipped: non-finite gradient (or loss on another process) in the batch of "
        "pair 8; pair 9"
    )
    assert found == ["step 4 skipped: non-finite loss for pair 7", *[other] * is_main]
    assert monitor.skipped == 2


@pytest.mark.parametrize("saved", [True, False])
def test_run_stops_when_too_many_steps_of_a_window_are_skipped(saved: bool, tmp_path: Path) -> None:
    """The sentence recommends its model as the initial one, if it has one."""
    monitor = HealthMonitor(replace(CONFIG, out=tmp_path))
    allowed = int(CONFIG.max_skipped * 100)
    messages(monitor, *(check(step, step < allowed) for step in range(200)))
    assert (monitor.skipped, monitor.window) == (allowed, 0)
    if saved:
        (tmp_path / "model.safetensors").touch()
    advice = r"11 of the last 11 steps .* another --out, with .*a lower --optimizer\.lr"
    with pytest.raises(ValueError, match=advice) as refusal:
        messages(monitor, *(check(step, True) for step in range(200, 300)))
    assert (f"--init {tmp_path} and " in str(refusal.value)) is saved


def test_counts_survive_a_checkpoint() -> None:
    before, after = HealthMonitor(CONFIG), HealthMonitor(CONFIG)
    messages(before, *(check(step, step > 95) for step in range(90, 105)))
    after.restore(before.state())
    assert (after.skipped, after.window) == (9, 5)


def test_a_discriminator_has_time_to_learn_also_after_a_short_warmup() -> None:
    optimizer = replace(CONFIG.optimizer, warmup=5)
    monitor = HealthMonitor(replace(CONFIG, optimizer=optimizer))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.check_metrics(1250, {"validation/accuracy": 0.5})
    with pytest.warns(UserWarning, match="chance level"):
        monitor.check_metrics(1500, {"validation/accuracy": 0.5})
