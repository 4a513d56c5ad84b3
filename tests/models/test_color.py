import torch
from underdrawing.models.color import LUMA, keep_chroma, with_colors_of
from underdrawing.models.style_code import match_color


def luma(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor(LUMA)[:, None, None]).sum(1)


def test_lightness_is_the_paintings_and_the_chroma_the_photos() -> None:
    photo = 0.4 + 0.2 * torch.rand(2, 3, 8, 8)
    stylized = 0.4 + 0.2 * torch.rand(2, 3, 8, 8)
    kept = keep_chroma(stylized, photo)
    torch.testing.assert_close(luma(kept), luma(stylized))
    for a, b in ((0, 1), (1, 2)):  # chroma: differences of colors and luma
        torch.testing.assert_close(kept[:, a] - kept[:, b], photo[:, a] - photo[:, b])


def test_it_stays_in_range_and_leaves_the_photo_alone() -> None:
    photo, stylized = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9).round()
    kept = keep_chroma(stylized, photo)
    assert kept.min() >= 0
    assert kept.max() <= 1
    assert torch.equal(keep_chroma(photo, photo), photo)


def test_with_its_own_colors_the_photo_is_not_moved() -> None:
    photo, code = torch.rand(2, 3, 9, 9), torch.rand(1, 14).expand(2, -1)
    own = with_colors_of(code, photo)
    assert torch.equal(own[:, 6:], code[:, 6:])
    torch.testing.assert_close(match_color(photo, own), photo)
