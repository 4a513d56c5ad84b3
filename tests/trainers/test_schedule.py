from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.losses.attention import OBJECTIVES
from underdrawing.trainers.config import AttentionConfig, TrainConfig
from underdrawing.trainers.schedule import is_due, joint_steps, learning_rate_factor, time_left

ALONE = ("observed", "learned", "shuffled")


def run(steps: int = 100, final_steps: int | None = 20, objective: str = "learned") -> TrainConfig:
    attention = AttentionConfig(objective=objective, final_steps=final_steps)  # type: ignore[arg-type]
    return replace(TrainConfig(), steps=steps, attention=attention)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_branch_learns_alone_if_it_predicts_the_error_and_no_decoder_uses_it(
    objective: str,
) -> None:
    config = run(objective=objective)
    assert joint_steps(config) == (80 if objective in ALONE else 100)
    gated = objective in ("uniform", "learned", "gate")
    if gated:
        attention = replace(config.attention, gates_decoder=True)
        assert joint_steps(replace(config, attention=attention)) == 100


@pytest.mark.parametrize(
    ("steps", "final_steps", "expected"), [(100, None, 90), (9, None, 9), (100, 0, 100), (3, 2, 1)]
)
def test_by_default_it_learns_alone_in_a_tenth_of_the_steps(
    steps: int, final_steps: int | None, expected: int
) -> None:
    assert joint_steps(run(steps, final_steps)) == expected


def test_some_step_must_train_the_generator() -> None:
    with pytest.raises(ValueError, match=r"final_steps 5 leaves no step .* less than steps, 5"):
        run(5, 5)


def test_no_step_must_train_a_generator_that_is_given() -> None:
    attention = AttentionConfig(final_steps=5)
    assert joint_steps(TrainConfig(init=Path("run"), steps=5, attention=attention)) == 0
    with pytest.raises(ValueError, match=r"final_steps 5 leaves no step .* with --init at most"):
        TrainConfig(init=Path("run"), steps=4, attention=attention)


def test_rate_falls_to_a_tenth_and_then_from_its_peak_to_zero() -> None:
    config = replace(run(), optimizer=replace(TrainConfig().optimizer, warmup=0))
    rates = [learning_rate_factor(step, config) for step in range(100)]
    assert rates[0] == 1
    assert rates[79] == pytest.approx(0.1, abs=1e-3)
    assert rates[80:] == pytest.approx([1 - i / 20 for i in range(20)])
    without = [learning_rate_factor(step, run(80, 0)) for step in range(80)]
    assert [learning_rate_factor(step, run()) for step in range(80)] == without


def test_periodic_actions_follow_the_last_step_of_both_parts() -> None:
    assert [done for done in range(1, 101) if is_due(60, done, run())] == [60, 80, 100]


def test_time_left_counts_less_for_steps_of_the_branch_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("underdrawing.trainers.schedule.ALONE_TIME", 0.5)
    assert [time_left(done, run()) for done in (0, 80, 90, 100, 120)] == [90, 10, 5, 0, 0]
