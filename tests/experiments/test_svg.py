import pytest
from underdrawing.experiments.svg import Axis, number, round_ticks


@pytest.mark.parametrize(
    "values", [(0, 1), (-0.013, 0.0047), (3.2, 411), (1e-7, 2e-7), (0.1, 0.30000000000000004)]
)
def test_ticks_cover_the_data_in_few_round_steps(values: tuple[float, float]) -> None:
    ticks = round_ticks(values)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= values[0] + 1e-6 * step
    assert ticks[-1] >= values[1] - 1e-6 * step
    assert ticks[0] > values[0] - step
    assert ticks[-1] < values[1] + step
    assert 3 <= len(ticks) <= 8


def test_known_ticks() -> None:
    assert round_ticks([0.03, 0.97]) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("value", [0.0, 0.7, -3e5, 1e-9])
def test_one_value_has_room_on_both_sides(value: float) -> None:
    ticks = round_ticks([value, value])
    assert ticks[0] < value < ticks[-1]


def test_an_axis_may_point_upwards() -> None:
    axis = Axis([0.0, 0.5, 1.0], start=200, end=100)
    assert [axis(0), axis(0.25), axis(1)] == [200, 175, 100]


def test_labels_have_the_decimals_that_tell_ticks_apart() -> None:
    fine = Axis(round_ticks([-0.5, 0.6]), 0, 1)
    assert fine.labels() == ["−0.50", "−0.25", "0.00", "0.25", "0.50", "0.75"]
    assert Axis(round_ticks([0, 400]), 0, 1).labels() == ["0", "100", "200", "300", "400"]


def test_minus_is_a_true_one_and_never_before_zero() -> None:
    assert number(-1.26, 1) == "−1.3"
    assert number(-0.001, 1) == "0.0"
    assert number(0.5, 1, "+") == "+0.5"
