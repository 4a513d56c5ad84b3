import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from underdrawing.models.discriminator import PatchGAN

STYLE = 10
either_norm = pytest.mark.parametrize("spectral_norm", [True, False])


def small(layers: int = 3, spectral_norm: bool = True, style_size: int | None = STYLE) -> PatchGAN:
    return PatchGAN(4, layers, spectral_norm, style_size)


def weighted_modules(discriminator: PatchGAN) -> list[nn.Module]:
    return [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_depends_on_exactly_its_receptive_field(layers: int, side: int) -> None:
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    center = 128 // 2**layers // 2
    small(layers, style_size=None)(image).logits[0, 0, center, center].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == side
    assert seen.sum() == side**2


@either_norm
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_min_side_gives_a_logit_that_depends_on_the_image(layers: int, spectral_norm: bool) -> None:
    discriminator = small(layers, spectral_norm)
    side = discriminator.min_side
    style = torch.randn(1, STYLE).expand(2, -1)
    logits = discriminator(torch.rand(2, 3, side, side), style).logits
    assert logits.shape == (2, 1, 1, 1)
    assert (logits[0] - logits[1]).abs() > 1e-4  # instance norm has not erased the features


def test_an_image_below_min_side_is_refused() -> None:
    discriminator = small()
    side = discriminator.min_side
    with pytest.raises(ValueError, match=rf"{side + 8}x{side - 1} pixels.*at least {side}.*fewer"):
        discriminator(torch.rand(1, 3, side - 1, side + 8), torch.randn(1, STYLE))


def test_spectral_norms_converge_to_one_by_advance_spectral_norm_alone() -> None:
    discriminator = small()
    for module in weighted_modules(discriminator):
        nn.init.normal_(module.get_parameter("parametrizations.weight.original"))
    before = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
    discriminator(torch.rand(2, 3, 64, 64), torch.randn(2, STYLE))
    assert all(torch.equal(before[name], b) for name, b in discriminator.named_buffers())
    for _ in range(50):
        discriminator.advance_spectral_norm()
    for module in weighted_modules(discriminator):
        assert isinstance(module.weight, Tensor)
        norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
        torch.testing.assert_close(norm, torch.tensor(1.0), rtol=0.02, atol=0)


def test_instance_norm_applies_from_the_second_layer_on_without_spectral_norm() -> None:
    discriminator = small(spectral_norm=False, style_size=None)
    assert not any(is_parametrized(m) for m in weighted_modules(discriminator))
    features = discriminator(torch.rand(2, 3, 64, 64)).features
    before_relu = [torch.where(f < 0, f / 0.2, f) for f in features]
    stds = [x.std(dim=(2, 3), correction=0) for x in before_relu]
    assert (stds[0] - 1).abs().min() > 0.1
    for x, std in zip(before_relu[1:], stds[1:], strict=True):
        assert x.mean(dim=(2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=0.01)


def test_projection_is_the_product_of_features_and_style_over_the_root_of_its_length() -> None:
    discriminator = small()
    assert isinstance(discriminator.embed, nn.Linear)
    image, style = torch.rand(1, 3, 64, 64), torch.randn(1, STYLE)
    logits, features = discriminator(image, style)
    embedded = discriminator.embed(style)[0]  # (C,)
    match = torch.einsum("chw,c->hw", features[-1][0], embedded) / len(embedded) ** 0.5
    expected = (match[1:, 1:] + match[1:, :-1] + match[:-1, 1:] + match[:-1, :-1]) / 4
    torch.testing.assert_close((logits - discriminator.head(features[-1]))[0, 0], expected)
    assert expected.abs().max() > 1e-4


@either_norm
def test_logits_do_not_depend_on_the_batch(spectral_norm: bool) -> None:
    discriminator = small(spectral_norm=spectral_norm)
    image, style = torch.rand(3, 3, 64, 64), torch.randn(3, STYLE)
    alone = [discriminator(image[i : i + 1], style[i : i + 1]).logits for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), discriminator(image, style).logits)


@either_norm
def test_a_flat_image_gives_finite_gradients(spectral_norm: bool) -> None:
    image = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    small(spectral_norm=spectral_norm, style_size=None)(image).logits.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
