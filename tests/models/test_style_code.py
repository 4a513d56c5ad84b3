import pytest
import torch
from torch import Tensor
from underdrawing.models.generator import code_size
from underdrawing.models.style_code import COLOUR_SIZE, match_colour, mean_std, style_code


def painting(mean: tuple[float, ...], std: tuple[float, ...], batch: int = 1) -> Tensor:
    """A code of colours alone."""
    return torch.tensor([*mean, *std]).expand(batch, COLOUR_SIZE)


def gentle_photo(batch: int = 2) -> Tensor:
    return 0.5 + 0.1 * torch.rand(batch, 3, 32, 40) - 0.05


def test_mean_and_std_are_those_over_positions() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    mean, std = mean_std(x)
    torch.testing.assert_close(mean.double(), x.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)
    expected = (x.var(dim=(2, 3), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(std.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_code_is_colours_then_each_layers_means_and_stds() -> None:
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


def test_match_colour_reaches_the_paintings_mean_and_std() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.05, 0.08, 0.02)
    matched = match_colour(gentle_photo(), painting(mean, std, batch=2))
    reached_mean, reached_std = mean_std(matched)
    torch.testing.assert_close(reached_mean, torch.tensor(mean).expand(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(reached_std, torch.tensor(std).expand(2, 3), rtol=0.02, atol=0)


def test_matching_a_photo_to_its_own_colours_changes_nothing() -> None:
    photo = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(match_colour(photo, style_code(photo, {})), photo)


def test_match_colour_stays_in_range() -> None:
    matched = match_colour(torch.rand(1, 3, 16, 16), painting((0.9,) * 3, (0.5,) * 3))
    assert matched.min() >= 0
    assert matched.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_photo_stays_flat_in_the_paintings_colour(value: float) -> None:
    photo = torch.full((1, 3, 16, 16), value, requires_grad=True)
    matched = match_colour(photo, painting((0.2, 0.5, 0.8), (0.3,) * 3))
    matched.square().sum().backward()
    colour = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(matched, colour.expand_as(matched))
    assert photo.grad is not None
    assert photo.grad.isfinite().all()


def test_noise_of_a_nearly_flat_photo_grows_fourfold_at_most() -> None:
    photo = 0.5 + 0.002 * (torch.rand(1, 3, 16, 16) - 0.5)
    matched = match_colour(photo, painting((0.5,) * 3, (0.3,) * 3))
    torch.testing.assert_close(matched.std() / photo.std(), torch.tensor(4.0), rtol=0.01, atol=0)


def test_a_black_and_white_photo_takes_the_paintings_colours() -> None:
    gray = gentle_photo(1)[:, :1].expand(1, 3, 32, 40)
    mean = (0.3, 0.5, 0.7)
    matched = match_colour(gray, painting(mean, (0.05, 0.02, 0.08)))
    torch.testing.assert_close(mean_std(matched)[0], torch.tensor([mean]), rtol=0, atol=1e-4)


def test_a_gray_painting_evens_out_the_photos_channels() -> None:
    photo = gentle_photo(1) * torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1)
    mean, std = mean_std(match_colour(photo, painting((0.5,) * 3, (0.05,) * 3)))
    assert (mean - 0.5).abs().max() < 1e-4
    assert (std - 0.05).abs().max() < 0.005  # the floor under the photo's std takes a little
