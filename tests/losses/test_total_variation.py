import torch
from underdrawing.losses.total_variation import tv_loss


def test_tv_sums_the_steps_between_neighbors_per_value(dtype: torch.dtype) -> None:
    image = torch.rand(2, 3, 4, 5, dtype=dtype)
    steps = image.diff(dim=2).abs().sum(dim=(1, 2, 3)) + image.diff(dim=3).abs().sum(dim=(1, 2, 3))
    torch.testing.assert_close(tv_loss(image), steps / (3 * 4 * 5))
    assert tv_loss(torch.rand(2, 3, 1, 1).expand(2, 3, 6, 6)).abs().sum() == 0
