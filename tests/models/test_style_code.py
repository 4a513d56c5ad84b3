import pytest
import torch
from torch import Tensor
from underdrawing.models.generator import code_size
from underdrawing.models.style_code import COLOR_SIZE, match_color, mean_std, style_code


def painting(mean: tuple[float, ...], std: tuple[float, ...], batch: int = 1) -> Tensor:
    """A code of colors alone."""
    return torch.tensor([*mean, *std]).expand(batch, COLOR_SIZE)


def gentle_photo(batch: int = 2) -> Tensor:
    return 0.5 + 0.1 * torch.rand(batch, 3, 32, 40) - 0.05


def deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation of the numbers as they are, in float64."""
    variance, mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    return mean.float(), (variance + 1e-5).sqrt().float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_and_std_are_those_over_positions(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = (2 + torch.randn(2, 3, 35, 46)).to(dtype).contiguous(memory_format=layout)
    for found, expected in zip(mean_std(x), deviation(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [1e2, 1e4, -1e5])
def test_the_std_keeps_its_digits_far_from_zero(mean: float) -> None:
    """float32 numbers near 1e5 are 0.008 apart; E[x²] - E[x]² would keep no digit at all."""
    x = mean + torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(mean_std(x)[1], deviation(x)[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 255.0])
def test_of_a_flat_picture_only_the_floor_of_the_std_is_left(value: float) -> None:
    mean, std = mean_std(torch.full((1, 3, 61, 47), value))
    torch.testing.assert_close(mean, torch.full((1, 3), value))
    torch.testing.assert_close(std, torch.full((1, 3), 1e-5).sqrt(), rtol=1e-3, atol=0)


def test_a_code_is_colors_then_each_layers_means_and_stds() -> None:
    image = torch.rand(2, 3, 8, 8)
    features = {"relu1_1": torch.randn(2, 4, 8, 8), "relu2_1": torch.randn(2, 5, 4, 4)}
    code = style_code(image, features)
    parts = [*mean_std(image), *mean_std(features["relu1_1"]), *mean_std(features["relu2_1"])]
    assert code.shape == (2, code_size({"relu1_1": 4, "relu2_1": 5}))
    assert torch.equal(code, torch.cat(parts, dim=1))


def test_a_code_forgets_where_things_are() -> None:
    image = torch.rand(1, 3, 8, 8)
    mirrored = image.flip(-1)
    torch.testing.assert_close(
        style_code(image, {"l": image}), style_code(mirrored, {"l": mirrored})
    )


def test_match_color_reaches_the_paintings_mean_and_std() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.05, 0.08, 0.02)
    matched = match_color(gentle_photo(), painting(mean, std, batch=2))
    reached_mean, reached_std = mean_std(matched)
    torch.testing.assert_close(reached_mean, torch.tensor(mean).expand(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(reached_std, torch.tensor(std).expand(2, 3), rtol=0.02, atol=0)


def test_matching_a_photo_to_its_own_colors_changes_nothing() -> None:
    photo = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(match_color(photo, style_code(photo, {})), photo)


def test_match_color_stays_in_range() -> None:
    matched = match_color(torch.rand(1, 3, 16, 16), painting((0.9,) * 3, (0.5,) * 3))
    assert matched.min() >= 0
    assert matched.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_photo_stays_flat_in_the_paintings_color(value: float) -> None:
    photo = torch.full((1, 3, 16, 16), value, requires_grad=True)
    matched = match_color(photo, painting((0.2, 0.5, 0.8), (0.3,) * 3))
    matched.square().sum().backward()
    color = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(matched, color.expand_as(matched))
    assert photo.grad is not None
    assert photo.grad.isfinite().all()


def test_noise_of_a_nearly_flat_photo_grows_fourfold_at_most() -> None:
    photo = 0.5 + 0.002 * (torch.rand(1, 3, 16, 16) - 0.5)
    matched = match_color(photo, painting((0.5,) * 3, (0.3,) * 3))
    torch.testing.assert_close(matched.std() / photo.std(), torch.tensor(4.0), rtol=0.01, atol=0)


def test_a_black_and_white_photo_takes_the_paintings_colors() -> None:
    gray = gentle_photo(1)[:, :1].expand(1, 3, 32, 40)
    mean = (0.3, 0.5, 0.7)
    matched = match_color(gray, painting(mean, (0.05, 0.02, 0.08)))
    torch.testing.assert_close(mean_std(matched)[0], torch.tensor([mean]), rtol=0, atol=1e-4)


def test_a_gray_painting_evens_out_the_photos_channels() -> None:
    photo = gentle_photo(1) * torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1)
    mean, std = mean_std(match_color(photo, painting((0.5,) * 3, (0.05,) * 3)))
    assert (mean - 0.5).abs().max() < 1e-4
    assert (std - 0.05).abs().max() < 0.005  # the floor under the photo's std takes a little
