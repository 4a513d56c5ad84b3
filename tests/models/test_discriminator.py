import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from underdrawing.models.discriminator import PatchGAN, minimum_side, receptive_field

STYLE = 10


def small(**options: object) -> PatchGAN:
    return PatchGAN(width=4, **options)  # type: ignore[arg-type]


def weighted_modules(discriminator: PatchGAN) -> list[nn.Module]:
    return [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def seen_by(discriminator: PatchGAN, row: int, column: int) -> Tensor:
    """Which pixels of a 128-pixel picture one output depends on, (128,128)."""
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    discriminator(image).logits[0][0, 0, row, column].backward()
    assert image.grad is not None
    return image.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_the_receptive_field_is_that_of_the_paper(layers: int, side: int) -> None:
    assert receptive_field(layers) == side


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_output_depends_on_exactly_its_receptive_field(layers: int) -> None:
    side = receptive_field(layers)
    center = 128 // 2**layers // 2
    seen = seen_by(small(layers=layers, spectral=True), center, center)
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert len(rows) == len(columns) == side
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == side
    assert seen.sum() == side**2


@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_the_smallest_picture_is_judged_at_every_scale(
    scales: int, layers: int, spectral: bool
) -> None:
    discriminator = small(layers=layers, scales=scales, spectral=spectral, style_size=STYLE)
    side = discriminator.min_side
    assert side == minimum_side(layers, scales)
    image = torch.rand(2, 3, side, side + 5)
    logits, features = discriminator(image, torch.randn(2, STYLE))
    assert all(x.isfinite().all() for x in logits)
    assert min(logits[-1].shape[-2:]) == 1
    assert min(features[-1][-1].shape[-2:]) >= 2


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_a_smaller_picture_is_refused_in_words(scales: int) -> None:
    discriminator = small(scales=scales)
    side = discriminator.min_side
    with pytest.raises(ValueError, match=rf"{scales} scale.*at least {side} pixels.*fewer scales"):
        discriminator(torch.rand(1, 3, side + 9, side - 1))


def test_instance_norm_does_not_erase_the_smallest_picture() -> None:
    discriminator = small(spectral=False)
    side = discriminator.min_side
    one, other = discriminator(torch.rand(2, 3, side, side)).logits[0]
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("scales", [0, 4])
def test_one_to_three_scales(scales: int) -> None:
    with pytest.raises(ValueError, match="1 to 3 scales"):
        small(scales=scales)


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_a_verdict_has_logits_and_hidden_layers_of_every_scale(scales: int) -> None:
    logits, features = small(scales=scales)(torch.rand(2, 3, 128, 160))
    assert len(logits) == len(features) == scales
    for i in range(scales):
        h, w = 128 // 2**i, 160 // 2**i
        assert logits[i].shape == (2, 1, h // 8 - 2, w // 8 - 2)
        assert [tuple(f.shape) for f in features[i]] == [
            (2, 4, h // 2, w // 2),
            (2, 8, h // 4, w // 4),
            (2, 16, h // 8, w // 8),
            (2, 32, h // 8 - 1, w // 8 - 1),
        ]


def test_the_second_scale_judges_the_picture_at_half_the_size() -> None:
    discriminator = small(scales=2).eval()
    image = torch.rand(1, 3, 96, 96)
    half = nn.functional.avg_pool2d(image, 2)
    expected, _ = discriminator.scales[1](2 * half - 1, None)
    torch.testing.assert_close(discriminator(image).logits[1], expected)


def test_features_lead_to_the_logits() -> None:
    discriminator = small().eval()
    logits, features = discriminator(torch.rand(1, 3, 64, 64))
    head = discriminator.scales[0].head
    assert isinstance(head, nn.Module)
    assert torch.equal(head(features[0][-1]), logits[0])


def test_spectral_norm_holds_every_weight_at_norm_one() -> None:
    discriminator = small(style_size=STYLE)
    for module in weighted_modules(discriminator):
        nn.init.normal_(module.get_parameter("parametrizations.weight.original"))
    for _ in range(50):
        discriminator.advance_spectral_norm()
    modules = weighted_modules(discriminator)
    assert all(is_parametrized(m, "weight") for m in modules)
    for m in modules:
        assert isinstance(m.weight, Tensor)
        norm = torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2)
        torch.testing.assert_close(norm, torch.tensor(1.0), rtol=0.02, atol=0)


def test_without_spectral_norm_weights_are_free_and_deeper_layers_normalized() -> None:
    discriminator = small(spectral=False)
    assert not any(is_parametrized(m) for m in weighted_modules(discriminator))
    (features,) = discriminator(torch.rand(2, 3, 64, 64)).features
    before_relu = [torch.where(f < 0, f / 0.2, f) for f in features]
    stds = [x.std(dim=(2, 3), correction=0) for x in before_relu]
    assert (stds[0] - 1).abs().min() > 0.1
    for x, std in zip(before_relu[1:], stds[1:], strict=True):
        assert x.mean(dim=(2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=0.01)


@pytest.mark.parametrize("spectral", [True, False])
def test_projection_asks_whether_the_patch_fits_the_painting(spectral: bool) -> None:
    discriminator = small(spectral=spectral, style_size=STYLE, scales=2).eval()
    image, style = torch.rand(1, 3, 64, 64), torch.randn(2, STYLE)
    one, other = discriminator(image, style[:1]), discriminator(image, style[1:])
    for a, b in zip(one.logits, other.logits, strict=True):
        assert (a - b).abs().max() > 1e-4
    for a, b in zip(one.features[0], other.features[0], strict=True):
        assert torch.equal(a, b)


def test_projection_is_linear_in_the_embedded_style() -> None:
    discriminator = small(style_size=STYLE).eval()
    embed = discriminator.scales[0].embed
    assert isinstance(embed, nn.Linear)
    nn.init.zeros_(embed.bias)
    image, (a, b) = torch.rand(1, 3, 64, 64), torch.randn(2, 1, STYLE)
    nothing = discriminator(image, torch.zeros(1, STYLE)).logits[0]
    change = [discriminator(image, s).logits[0] - nothing for s in (a, b, a + b)]
    torch.testing.assert_close(change[0] + change[1], change[2])


@pytest.mark.parametrize("spectral", [True, False])
def test_a_verdict_does_not_depend_on_the_batch(spectral: bool) -> None:
    discriminator = small(spectral=spectral, scales=2, style_size=STYLE).eval()
    image, style = torch.rand(3, 3, 64, 64), torch.randn(3, STYLE)
    together = discriminator(image, style).logits
    alone = [discriminator(image[i : i + 1], style[i : i + 1]).logits for i in range(3)]
    for scale in range(2):
        torch.testing.assert_close(torch.cat([x[scale] for x in alone]), together[scale])


@pytest.mark.parametrize("spectral", [True, False])
def test_there_is_no_batchnorm(spectral: bool) -> None:
    modules = small(spectral=spectral, scales=3).modules()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)


def test_a_verdict_changes_no_buffer_and_an_advance_all_of_spectral_norms() -> None:
    discriminator = small(style_size=STYLE)
    before = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
    discriminator(torch.rand(2, 3, 64, 64), torch.randn(2, STYLE))
    assert all(torch.equal(before[name], b) for name, b in discriminator.named_buffers())
    discriminator.advance_spectral_norm()
    # The output layer has one row, whose direction is what it is.
    vectors = {name: b for name, b in discriminator.named_buffers() if ".head." not in name}
    assert not any(torch.equal(before[name], vector) for name, vector in vectors.items())
    assert not discriminator.training


@pytest.mark.parametrize("spectral", [True, False])
def test_a_flat_picture_gives_finite_gradients(spectral: bool) -> None:
    image = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    small(spectral=spectral)(image).logits[0].sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
