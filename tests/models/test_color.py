import torch
from underdrawing.models.color import LUMA, keep_chroma, with_colors_of
from underdrawing.models.style_code import match_color


def luma(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor(LUMA)[:, None, None]).sum(1)


def test_keep_chroma_takes_luma_of_the_output_and_chroma_of_the_photo() -> None:
    photo, stylized = 0.4 + 0.2 * torch.rand(2, 2, 3, 8, 8)  # far from clamping
    combined = keep_chroma(stylized, photo)
    torch.testing.assert_close(luma(combined), luma(stylized))
    for a, b in ((0, 1), (1, 2)):  # color differences determine the chroma
        torch.testing.assert_close(combined[:, a] - combined[:, b], photo[:, a] - photo[:, b])


def test_keep_chroma_stays_in_range_and_returns_an_unchanged_photo_exactly() -> None:
    photo, stylized = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9).round()
    combined = keep_chroma(stylized, photo)
    assert combined.min() >= 0
    assert combined.max() <= 1
    assert torch.equal(keep_chroma(photo, photo), photo)


def test_with_colors_of_makes_color_matching_the_identity() -> None:
    photo, code = torch.rand(2, 3, 9, 9), torch.rand(1, 14).expand(2, -1)
    own = with_colors_of(code, photo)
    assert torch.equal(own[:, 6:], code[:, 6:])
    torch.testing.assert_close(match_color(photo, own), photo)
