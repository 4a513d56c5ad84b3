import torch
from underdrawing.models.color import COLOR_SIZE, color_statistics, from_logit, recolor, to_logit
from underdrawing.models.generator import code_size
from underdrawing.models.normalization import mean_std
from underdrawing.models.style_code import match_color, style_code


def test_style_code_is_color_statistics_then_means_and_stds_of_each_layer() -> None:
    image = torch.rand(2, 3, 8, 8)
    features = {"relu1_1": torch.randn(2, 4, 8, 8), "relu2_1": torch.randn(2, 5, 4, 4)}
    code = style_code(image, features)
    parts = [*mean_std(features["relu1_1"]), *mean_std(features["relu2_1"])]
    assert code.shape == (2, code_size({"relu1_1": 4, "relu2_1": 5}))
    assert torch.equal(code, torch.cat([color_statistics(image), *parts], dim=1))


def test_match_color_recolors_in_logit_space_and_stays_in_range() -> None:
    photo, code = torch.rand(2, 3, 16, 20), style_code(torch.rand(2, 3, 8, 8).round(), {})
    matched = match_color(photo, torch.cat([code, torch.rand(2, 6)], dim=1))
    expected = recolor(to_logit(photo), color_statistics(photo), code[:, :COLOR_SIZE])
    assert torch.equal(matched, from_logit(expected))
    assert matched.min() >= 0
    assert matched.max() <= 1


def test_match_color_to_own_colors_is_the_identity() -> None:
    photo = torch.rand(2, 3, 16, 20)
    torch.testing.assert_close(match_color(photo, style_code(photo, {})), photo, rtol=0, atol=1e-5)
