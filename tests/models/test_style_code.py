import pytest
import torch
from torch import Tensor
from underdrawing.models.generator import code_size
from underdrawing.models.normalization import mean_std
from underdrawing.models.style_code import COLOR_SIZE, match_color, style_code


def color_code(mean: tuple[float, ...], std: tuple[float, ...], batch: int = 1) -> Tensor:
    """A style code of colors alone."""
    return torch.tensor([*mean, *std]).expand(batch, COLOR_SIZE)


def low_contrast(batch: int = 2) -> Tensor:
    return 0.45 + 0.1 * torch.rand(batch, 3, 32, 40)


def test_style_code_is_colors_then_means_and_stds_of_each_layer() -> None:
    image = torch.rand(2, 3, 8, 8)
    features = {"relu1_1": torch.randn(2, 4, 8, 8), "relu2_1": torch.randn(2, 5, 4, 4)}
    code = style_code(image, features)
    parts = [*mean_std(image), *mean_std(features["relu1_1"]), *mean_std(features["relu2_1"])]
    assert code.shape == (2, code_size({"relu1_1": 4, "relu2_1": 5}))
    assert torch.equal(code, torch.cat(parts, dim=1))


def test_match_color_reaches_mean_and_std() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.05, 0.08, 0.02)
    matched = match_color(low_contrast(), color_code(mean, std, batch=2))
    reached_mean, reached_std = mean_std(matched)
    torch.testing.assert_close(reached_mean, torch.tensor(mean).expand(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(reached_std, torch.tensor(std).expand(2, 3), rtol=0.02, atol=0)


def test_match_color_to_own_colors_is_the_identity_also_for_a_tile() -> None:
    photo = torch.rand(2, 3, 16, 16)
    code = style_code(photo, {})
    torch.testing.assert_close(match_color(photo, code), photo)
    tile = photo[..., :5, :]
    torch.testing.assert_close(match_color(tile, code, mean_std(photo)), tile)


def test_match_color_stays_in_range() -> None:
    matched = match_color(torch.rand(1, 3, 16, 16), color_code((0.9,) * 3, (0.5,) * 3))
    assert matched.min() >= 0
    assert matched.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_match_color_of_a_flat_photo_is_flat_with_finite_gradients(value: float) -> None:
    photo = torch.full((1, 3, 16, 16), value, requires_grad=True)
    matched = match_color(photo, color_code((0.2, 0.5, 0.8), (0.3,) * 3))
    matched.square().sum().backward()
    color = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(matched, color.expand_as(matched))
    assert photo.grad is not None
    assert photo.grad.isfinite().all()


def test_match_color_amplifies_noise_at_most_fourfold() -> None:
    photo = 0.5 + 0.002 * (torch.rand(1, 3, 16, 16) - 0.5)
    matched = match_color(photo, color_code((0.5,) * 3, (0.3,) * 3))
    torch.testing.assert_close(matched.std() / photo.std(), torch.tensor(4.0), rtol=0.01, atol=0)
