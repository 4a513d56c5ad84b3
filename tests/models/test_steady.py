"""Steady paint: it follows what moves, and takes nothing along that is gone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from underdrawing.models.steady import Steady, find_motion, move


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth picture (1,3,H,W) with detail of several sizes."""
    random = torch.Generator().manual_seed(seed)
    parts = [torch.rand(1, 3, height // n, width // n, generator=random) for n in (5, 12, 24)]
    return sum(
        (F.interpolate(part, (height, width), mode="bicubic").clamp(0, 1) / 3 for part in parts),
        torch.zeros(1, 3, height, width),
    )


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.5, -0.75), (9.0, 4.0)])
def test_a_shift_is_found(x: float, y: float) -> None:
    scene = texture(120, 150)
    shift = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, 120, 150)
    now = move(scene, shift)  # what is at p was at p + shift
    error = (find_motion(now, scene) - shift).norm(dim=1)[:, 12:-12, 12:-12]
    assert error.mean() < 0.15


def test_flicker_over_a_moving_scene_becomes_less() -> None:
    scene, random = texture(96, 160), torch.Generator().manual_seed(1)
    photos = [scene[..., 2 * n : 2 * n + 120] for n in range(8)]
    painted = [1 - x + 0.1 * torch.randn(x.shape, generator=random) for x in photos]
    steady = Steady()
    last = [steady(*both) for both in zip(photos, painted, strict=True)][-1]
    assert (last - (1 - photos[-1])).std() < 0.6 * (painted[-1] - (1 - photos[-1])).std()


def test_a_moving_thing_leaves_no_ghost() -> None:
    scene = texture(96, 128)
    steady = Steady()
    for n in range(6):
        photo = scene.clone()
        photo[..., 30:60, 10 + 14 * n : 40 + 14 * n] = 1.0
        painted = 1 - photo
        result = steady(photo, painted)
        uncovered = result[..., 30:60, 10 + 14 * (n - 1) : 10 + 14 * n] if n else result[..., :0]
        alone = painted[..., 30:60, 10 + 14 * (n - 1) : 10 + 14 * n] if n else painted[..., :0]
        if n:
            there = alone.mean()  # the ghost would be black: painted 1 - 1
            assert (uncovered - alone).abs().mean() < 0.1 * there


def test_a_cut_begins_anew() -> None:
    steady = Steady()
    steady(texture(48, 64), texture(48, 64))
    painted = texture(48, 64, seed=2)
    assert torch.equal(steady(1 - texture(48, 64, seed=1), painted), painted)


def test_it_goes_on_from_what_it_was_given() -> None:
    photos = [texture(48, 64, seed=0).roll(n, -1) for n in range(4)]
    whole, first, second = Steady(), Steady(), Steady()
    expected = [whole(x, 1 - x) for x in photos]
    for x in photos[:2]:
        first(x, 1 - x)
    second.before = first.before
    assert torch.equal(second(photos[2], 1 - photos[2]), expected[2])
    assert torch.equal(second(photos[3], 1 - photos[3]), expected[3])
