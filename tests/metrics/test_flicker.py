"""The warping error: nothing where paint moves with the scene, the flicker where it does not."""

import pytest
import torch
from underdrawing.metrics.flicker import detail, warping_error

SHIFT = torch.tensor([[1.0, 0.0, -3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # things move left


def test_paint_that_sticks_to_things_has_none() -> None:
    scene = torch.rand(1, 3, 40, 80, generator=torch.Generator().manual_seed(0))
    frames = [scene[..., 3 * n : 3 * n + 60] for n in range(4)]
    assert warping_error(frames, [SHIFT] * 3) < 0.1
    assert warping_error(frames, [torch.eye(3)] * 3) > 50


def test_it_is_in_grey_levels() -> None:
    frames = [torch.full((1, 3, 40, 60), 0.5), torch.full((1, 3, 40, 60), 0.6)]
    assert warping_error(frames, [torch.eye(3)]) == pytest.approx(25.5, abs=0.01)


def test_detail_is_the_mean_step_between_neighbours() -> None:
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 32, 256)
    assert detail([ramp, ramp]) == pytest.approx(0.5, abs=0.01)  # one level across, none down
