import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from underdrawing.losses.diffaugment import NUMBERS, diff_augment

F64 = torch.float64
PARAMETERS = ("brightness", "saturation", "contrast", "shift_x", "shift_y")


def uniform(**changes: float) -> Tensor:
    """Numbers (2,5) that change nothing, except those given."""
    numbers = torch.full((2, NUMBERS), 0.5, dtype=F64)
    for name, value in changes.items():
        numbers[:, PARAMETERS.index(name)] = value
    return numbers


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 16, 24, dtype=F64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_brightness_is_added_and_neutral_numbers_change_nothing() -> None:
    image = images()
    close(diff_augment(image, uniform(brightness=0.8)), image + 0.3)
    close(diff_augment(image, uniform()), image)


@pytest.mark.parametrize("number", [0.0, 0.25, 0.9])
def test_saturation_scales_the_distance_from_gray_and_contrast_from_the_mean(number: float) -> None:
    image = images()
    gray, mean = image.mean(dim=1, keepdim=True), image.mean(dim=(1, 2, 3), keepdim=True)
    close(diff_augment(image, uniform(saturation=number)), gray + 2 * number * (image - gray))
    close(diff_augment(image, uniform(contrast=number)), mean + (0.5 + number) * (image - mean))


def test_shift_is_at_most_an_eighth_and_fills_with_black() -> None:
    image = images()
    moved = diff_augment(image, uniform(shift_x=1.0, shift_y=0.0))  # 3 right, 2 up
    close(moved[..., :-2, 3:], image[..., 2:, :-3])
    assert moved[..., -2:, :].abs().max() < 1e-9
    assert moved[..., :3].abs().max() < 1e-9


def test_each_image_depends_on_its_own_numbers_alone() -> None:
    image, numbers = images(4), torch.rand(4, NUMBERS, dtype=F64)
    together = diff_augment(image, numbers)
    for i in range(4):
        close(together[i], diff_augment(image[i : i + 1], numbers[i : i + 1])[0])


def test_gradients_reach_the_image() -> None:
    image = torch.rand(1, 3, 8, 8, dtype=F64, requires_grad=True)
    numbers = torch.rand(1, NUMBERS, dtype=F64)
    assert gradcheck(lambda x: diff_augment(x, numbers), (image,))
    assert gradgradcheck(lambda x: diff_augment(x, numbers).square(), (image,))  # R1


def test_no_operation_lacks_a_second_derivative_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``grid_sample`` has one on a CPU only."""
    monkeypatch.setattr("torch.nn.functional.grid_sample", None)
    diff_augment(images(), uniform(shift_x=0.3))
