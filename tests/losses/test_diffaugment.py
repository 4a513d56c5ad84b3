import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from underdrawing.losses.diffaugment import NUMBERS, diff_augment

NEUTRAL = 0.5
BRIGHTNESS, SATURATION, CONTRAST, SHIFT_X, SHIFT_Y = range(NUMBERS)


def uniform(batch: int = 2, **changes: float) -> Tensor:
    numbers = torch.full((batch, NUMBERS), NEUTRAL, dtype=torch.float64)
    for name, value in changes.items():
        numbers[:, globals()[name.upper()]] = value
    return numbers


def pictures(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 16, 24, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_neutral_numbers_change_nothing() -> None:
    image = pictures()
    close(diff_augment(image, uniform()), image)


def test_brightness_is_added() -> None:
    image = pictures()
    close(diff_augment(image, uniform(brightness=0.8)), image + 0.3)


@pytest.mark.parametrize("number", [0.0, 0.25, 0.9])
def test_saturation_scales_the_distance_from_gray(number: float) -> None:
    image = pictures()
    gray = image.mean(dim=1, keepdim=True)
    close(diff_augment(image, uniform(saturation=number)), gray + 2 * number * (image - gray))


@pytest.mark.parametrize("number", [0.0, 0.25, 0.9])
def test_contrast_scales_the_distance_from_the_mean(number: float) -> None:
    image = pictures()
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    close(diff_augment(image, uniform(contrast=number)), mean + (0.5 + number) * (image - mean))


def test_shift_moves_by_an_eighth_at_most_and_fills_with_black() -> None:
    image = pictures()
    moved = diff_augment(image, uniform(shift_x=1.0, shift_y=0.0))  # 3 right, 2 up
    close(moved[..., :-2, 3:], image[..., 2:, :-3])
    assert moved[..., -2:, :].abs().max() < 1e-9
    assert moved[..., :3].abs().max() < 1e-9


def test_same_numbers_make_the_same_change() -> None:
    image, numbers = pictures(), torch.rand(2, NUMBERS)
    assert torch.equal(diff_augment(image, numbers), diff_augment(image, numbers))


def test_a_row_depends_on_its_own_numbers_and_picture_alone() -> None:
    image, numbers = pictures(4), torch.rand(4, NUMBERS, dtype=torch.float64)
    together = diff_augment(image, numbers)
    for i in range(4):
        close(together[i], diff_augment(image[i : i + 1], numbers[i : i + 1])[0])


def test_real_and_fake_get_the_same_change() -> None:
    image, numbers = pictures(), torch.rand(2, NUMBERS, dtype=torch.float64)
    both = diff_augment(torch.cat([image, image]), torch.cat([numbers, numbers]))
    close(both[:2], both[2:])


def test_gradient_passes_through() -> None:
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    numbers = torch.rand(1, NUMBERS, dtype=torch.float64)
    assert gradcheck(lambda x: diff_augment(x, numbers), (image,))


def test_precision_of_the_picture_is_kept(dtype: torch.dtype) -> None:
    image = pictures().to(dtype)
    assert diff_augment(image, torch.rand(2, NUMBERS)).dtype == dtype
