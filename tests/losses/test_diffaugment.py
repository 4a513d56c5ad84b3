import pytest
import torch
from torch import Tensor
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


def test_neutral_numbers_change_nothing() -> None:
    image = images()
    close(diff_augment(image, uniform()), image)


def test_brightness_is_added() -> None:
    image = images()
    close(diff_augment(image, uniform(brightness=0.8)), image + 0.3)


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


def test_output_has_the_dtype_of_the_image(dtype: torch.dtype) -> None:
    assert diff_augment(images().to(dtype), torch.rand(2, NUMBERS)).dtype == dtype
