from collections.abc import Callable

import torch
from underdrawing.losses.total_variation import tv_loss


def test_tv_sums_the_steps_between_neighbors_per_pixel() -> None:
    image = torch.tensor([[[[0.0, 1.0, 1.0], [0.5, 0.5, 0.0]]]])
    rows = 1.0 + 0.0 + 0.0 + 0.5
    columns = 0.5 + 0.5 + 1.0
    torch.testing.assert_close(tv_loss(image), torch.tensor([(rows + columns) / 6]))


def test_tv_is_one_value_per_picture_over_all_its_channels(dtype: torch.dtype) -> None:
    image = torch.rand(2, 3, 4, 5, dtype=dtype)
    steps = image.diff(dim=2).abs().sum(dim=(1, 2, 3)) + image.diff(dim=3).abs().sum(dim=(1, 2, 3))
    assert tv_loss(image).shape == (2,)
    assert tv_loss(image).dtype == dtype
    torch.testing.assert_close(tv_loss(image), steps / (3 * 4 * 5))


def test_tv_of_a_flat_picture_is_zero_whatever_its_color() -> None:
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 6, 6)
    assert tv_loss(flat).abs().sum() == 0


def test_tv_has_the_gradient_it_should(assert_gradient: Callable[..., None]) -> None:
    # distinct steps of at least 0.1, away from the kinks of |x|
    image = (torch.randperm(2 * 3 * 9).double() / 10).view(2, 3, 3, 3)
    assert_gradient(tv_loss, image)
