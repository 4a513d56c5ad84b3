import torch
from underdrawing.trainers.visualize import overlay


def test_overlay_is_not_stretched_over_a_photo_that_was_padded() -> None:
    whole, attention = torch.rand(2, 3, 40, 48), 3 * torch.rand(2, 1, 5, 6)
    assert torch.equal(
        overlay(whole[..., :33, :41], attention), overlay(whole, attention)[..., :33, :41]
    )
