import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from underdrawing.models.color import (
    COLOR_SIZE,
    color_statistics,
    from_logit,
    recolor,
    to_logit,
    without_covariance,
)
from underdrawing.models.generator import (
    CODE_SCALE,
    Generator,
    StyledConv,
    UpsampleConv,
    reduce_photo,
)
from underdrawing.models.style_code import match_color, style_code

FEATURES = 4
CODE = COLOR_SIZE + 2 * FEATURES
CHANNELS = {"conv3_2": 5, "conv4_2": 7}
SIZES = [(32, 32), (33, 97), (45, 38), (71, 64)]


def untrained(**options: object) -> Generator:
    return Generator(CODE, width=8, blocks=2, **options)  # type: ignore[arg-type]


def trained(**options: object) -> Generator:
    """A generator whose residual, noise and attention have left their zero initialization."""
    generator = untrained(**options)
    nn.init.normal_(generator.to_residual.conv.weight, std=0.1)
    for module in generator.modules():
        if isinstance(module, StyledConv):
            nn.init.normal_(module.style.bias, std=0.3)
    if generator.attention is not None:
        nn.init.normal_(generator.attention.head.weight, std=3)
    if generator.channel_attention is not None:
        for parameter in generator.channel_attention.parameters():
            nn.init.normal_(parameter)
    return generator


def with_weights_of(source: Generator, **options: object) -> Generator:
    generator = untrained(**options)
    generator.load_state_dict(source.state_dict(), strict=False)
    return generator


def photos(batch: int = 2, height: int = 40, width: int = 48) -> Tensor:
    return torch.rand(batch, 3, height, width)


def codes(batch: int = 2) -> Tensor:
    features = torch.randn(batch, FEATURES, 8, 8).relu()
    return style_code(0.2 + 0.6 * torch.rand(batch, 3, 8, 8), {"l": features})


def has_gradient(module: nn.Module | None) -> bool:
    assert module is not None
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


# --- output ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("attention", [True, False])
def test_output_has_the_photos_size_and_a_map(height: int, width: int, attention: bool) -> None:
    photo = photos(2, height, width)
    image, a, predicted = trained(attention=attention)(photo, codes())
    assert image.shape == photo.shape
    assert image.min() >= 0
    assert image.max() <= 1
    assert a.shape == (2, 1, math.ceil(height / 8), math.ceil(width / 8))
    assert (a >= 0).all()
    torch.testing.assert_close(a.mean(dim=(1, 2, 3)), torch.ones(2))
    assert (a.std() > 0.01) == attention
    assert predicted.channels == {}


@pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31)])
def test_a_photo_below_32_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width}x{height} pixels; .* at least 32"):
        untrained()(photos(1, height, width), codes(1))


@pytest.mark.parametrize("base", ["covariance", "channelwise", "none"])
def test_training_starts_from_the_colors_of_the_base(base: str) -> None:
    """Strength interpolates logits."""
    photo, code = photos(), codes()
    z, own, target = to_logit(photo), color_statistics(photo), code[:, :COLOR_SIZE]
    if base == "channelwise":
        own, target = without_covariance(own), without_covariance(target)
    recolored = z if base == "none" else recolor(z, own, target)
    for strength in (0.5, 1.0):
        expected = from_logit(z + strength * (recolored - z))
        found = untrained(base=base)(photo, code, strength).image
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (trained(base=base)(photo, code, strength).image - expected).abs().mean() > 5e-3


def test_the_residual_is_added_to_recolored_logits_before_clamping() -> None:
    """A residual can bring back what the painting's colors push out of range."""
    generator = untrained()
    photo, code = photos(1), codes(1)
    code[:, 0] = 20.0  # all white
    assert generator(photo, code).image.min() == 1
    assert generator.to_residual.conv.bias is not None
    nn.init.constant_(generator.to_residual.conv.bias, -(20.0 * 3**-0.5))
    code[:, 0] = 0
    expected = match_color(photo, code)
    code[:, 0] = 20.0
    torch.testing.assert_close(generator(photo, code).image, expected, rtol=0, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch() -> None:
    generator = trained(gates_decoder=True, channels=CHANNELS).double()
    photo, code = photos(3).double(), codes(3).double()
    strength = torch.tensor([1.0, 0.6, 0.2]).double()
    together = generator(photo, code, strength)
    for i in range(3):
        one = slice(i, i + 1)
        alone = generator(photo[one], code[one], strength[one])
        torch.testing.assert_close(alone.image, together.image[one], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.attention, together.attention[one])
        for layer, prediction in alone.predicted.channels.items():
            torch.testing.assert_close(prediction, together.predicted.channels[layer][one])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inference_equals_training_in_any_memory_layout(
    height: int, width: int, layout: torch.memory_format
) -> None:
    generator, photo, code = trained(gates_decoder=True), photos(2, height, width), codes()
    expected = generator(photo, code, 0.7)
    assert expected.image.requires_grad
    with torch.no_grad():
        found = generator(photo.contiguous(memory_format=layout), code, 0.7)
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.attention, expected.attention, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [untrained, trained])
def test_a_flat_photo_gives_finite_gradients(value: float, make: Callable[..., Generator]) -> None:
    generator, photo = make(channels=CHANNELS), torch.full((1, 3, 40, 40), value)
    image, attention, _ = generator(photo.requires_grad_(), codes(1))
    (image.square().sum() + attention.square().sum()).backward()
    assert image.isfinite().all()
    assert photo.grad is not None
    gradients = [photo.grad, *(p.grad for p in generator.parameters() if p.grad is not None)]
    assert all(g.isfinite().all() for g in gradients)


# --- style and strength ---------------------------------------------------------------------


def test_style_and_conditioning_strength_change_the_image() -> None:
    """The conditioning strength is that of a map's mean, and 1 by default."""
    generator, photo, code, s = trained(), photos(1), codes(), torch.rand(1, 1, 40, 48)
    image = generator(photo, code[:1], s).image
    assert torch.equal(generator(photo, code[:1], s, cond_strength=torch.ones(1)).image, image)
    mean, whole = (generator(photo, code[:1], s, cond_strength=c).image for c in (s.mean(), s))
    assert torch.equal(mean, whole)
    assert (image - mean).abs().mean() > 1e-4
    assert (image - generator(photo, code[1:], s).image).abs().mean() > 5e-3


def test_numbers_and_constant_maps_condition_the_network_alike() -> None:
    generator, photo, code = trained(modulates_strength=True), photos(), codes()
    s = torch.full((2, 1, 40, 48), 0.4)
    expected = generator(photo, code, 0.4, cond_strength=0.4).image
    for cond in (torch.tensor([0.4, 0.4]), s):
        image = generator(photo, code, s, cond_strength=cond).image
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    assert (generator(photo, code, s).image - expected).abs().mean() > 1e-4


@pytest.mark.parametrize("strength", [0.0, torch.zeros(2), torch.zeros(2, 1, 40, 48)])
@pytest.mark.parametrize("modulates_strength", [False, True])
def test_strength_zero_returns_the_photo(
    strength: Tensor | float, modulates_strength: bool
) -> None:
    photo = photos()
    photo[:, :, :4], photo[:, :, 4:8] = 0, 1
    generator = trained(modulates_strength=modulates_strength)
    assert torch.equal(generator(photo, codes(), strength).image, photo)


# --- attention ------------------------------------------------------------------------------


def test_attention_depends_on_the_photo_alone() -> None:
    generator, photo, code = trained(), photos(1), codes()
    one, other = generator(photo, code[:1]), generator(photo, code[1:], 0.3)
    assert torch.equal(one.attention, other.attention)


@pytest.mark.parametrize("gates_decoder", [False, True])
def test_a_loss_on_attention_trains_only_the_branches(gates_decoder: bool) -> None:
    generator = trained(gates_decoder=gates_decoder, channels=CHANNELS)
    _, attention, predicted = generator(photos(), codes())
    loss = (attention * torch.randn_like(attention)).sum()
    loss = loss + sum((a * torch.randn_like(a)).sum() for a in predicted.channels.values())
    loss.backward()
    assert has_gradient(generator.attention)
    assert has_gradient(generator.channel_attention)
    rest = [m for name, m in generator.named_children() if "attention" not in name]
    assert not any(has_gradient(module) for module in rest)


@pytest.mark.parametrize(
    ("options", "trains"),
    [
        ({}, False),
        ({"gates_decoder": True}, True),
        ({"gates_decoder": True, "gate_trains_attention": False}, False),
        ({"modulates_strength": True}, False),
    ],
)
def test_images_train_attention_only_by_the_gate(options: dict[str, bool], trains: bool) -> None:
    generator = trained(**options)
    generator(photos(), codes(), 0.5).image.square().sum().backward()
    assert has_gradient(generator.attention) == trains
    assert has_gradient(generator.trunk8)


def test_the_gate_changes_the_image_and_detaching_it_does_not() -> None:
    gated, photo, code = trained(gates_decoder=True), photos(), codes()
    image = gated(photo, code).image
    detached = with_weights_of(gated, gates_decoder=True, gate_trains_attention=False)
    assert torch.equal(detached(photo, code).image, image)
    assert (with_weights_of(gated)(photo, code).image - image).abs().mean() > 1e-3


def test_a_gate_without_a_branch_equals_uniform_attention() -> None:
    gated, photo, code = trained(gates_decoder=True), photos(), codes()
    assert gated.attention is not None
    nn.init.zeros_(gated.attention.head.weight)  # A = 1
    constant = with_weights_of(gated, gates_decoder=True, attention=False)
    torch.testing.assert_close(constant(photo, code).image, gated(photo, code).image)


def test_modulated_strength_is_s_to_the_power_of_attention() -> None:
    modulated, photo, code = trained(modulates_strength=True), photos(2, 44, 52), codes()
    plain = with_weights_of(modulated)
    image, attention, _ = modulated(photo, code, 0.5)
    a = F.interpolate(attention, scale_factor=8, mode="bilinear")[..., :44, :52]
    assert (a.amax(dim=(1, 2, 3)) > 1.05).all()
    torch.testing.assert_close(image, plain(photo, code, 0.5**a).image)
    assert (image - plain(photo, code, 0.5).image).abs().mean() > 1e-4
    full = modulated(photo, code, 1.0).image
    torch.testing.assert_close(full, plain(photo, code, 1.0).image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("option", ["channels", "gates_decoder", "modulates_strength"])
def test_attention_is_left_out_on_request_if_the_image_does_not_need_it(option: str) -> None:
    options = {option: CHANNELS if option == "channels" else True}
    generator, photo, code = trained(**options), photos(), codes()
    without, output = generator(photo, code, 0.5, attend=False), generator(photo, code, 0.5)
    assert torch.equal(without.image, output.image)
    needed = option != "channels"
    expected = output.attention if needed else torch.ones(2, 1, 5, 6)
    assert torch.equal(without.attention, expected)
    assert without.predicted.channels == {}


# --- noise ----------------------------------------------------------------------------------


def test_noise_is_fixed_periodic_and_shifted_by_whole_positions() -> None:
    generator, x8 = untrained(), torch.empty(2, 8, 40, 33)
    noise = generator.make_noise(x8)
    assert noise is not None
    assert noise.shape == (1, 1, 160, 132)
    other = untrained().make_noise(torch.empty(1, 8, 50, 50))
    assert other is not None
    assert torch.equal(noise, other[..., :160, :132])
    assert torch.equal(noise[..., 128:, :], noise[..., :32, :])
    torch.testing.assert_close(noise.std(), torch.tensor(1.0), rtol=0.02, atol=0)
    shifted = generator.make_noise(x8, torch.tensor([[0.0, 0.0], [5.5 / 128, 127.9 / 128]]))
    assert shifted is not None
    assert torch.equal(shifted[:1], noise)
    assert torch.equal(shifted[1, 0, :100, 1:101], noise[0, 0, 5:105, :100])


def test_noise_gives_a_flat_area_a_texture() -> None:
    photo, code = torch.full((1, 3, 64, 128), 0.5), codes(1)
    photo[..., 64:] = torch.rand(64)
    assert trained()(photo, code).image[..., :40].std(dim=(2, 3)).min() > 1e-3


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_photo_of_one_color_stays_one_color(value: float) -> None:
    image = trained()(torch.full((1, 3, 64, 64), value), codes(1)).image
    assert image.std(dim=(2, 3)).max() < 1e-4


def test_the_residual_of_a_nearly_flat_photo_fades() -> None:
    generator, code = trained(noise=False, base="none"), codes(1)
    pattern = torch.randn(1, 3, 64, 64)

    def residual(std: float) -> Tensor:  # of the photo's logits, all axes together
        photo = from_logit(pattern * std / 3**0.5)
        return (to_logit(generator(photo, code).image) - to_logit(photo)).square().mean().sqrt()

    full = residual(0.2)
    torch.testing.assert_close(residual(0.12), full, rtol=0.1, atol=0)
    torch.testing.assert_close(residual(0.05), full / 4, rtol=0.1, atol=0)


def test_noise_offset_changes_the_image_of_its_own_photo_alone() -> None:
    generator, photo, code = trained(), photos(), codes()
    offset = torch.tensor([[0.0, 0.0], [0.3, 0.7]])
    plain, shifted = generator(photo, code).image, generator(photo, code, noise_offset=offset).image
    torch.testing.assert_close(shifted[0], plain[0], rtol=0, atol=1e-5)
    assert (shifted[1] - plain[1]).abs().mean() > 1e-3


# --- standardization ------------------------------------------------------------------------


def test_standardized_codes_have_mean_zero_and_std_code_scale() -> None:
    generator, training_codes = untrained(), 5 + torch.randn(64, CODE)
    generator.fit_standardization(training_codes)
    standard = generator.standardize(training_codes)
    torch.testing.assert_close(standard.mean(0), torch.zeros(CODE), rtol=0, atol=1e-5)
    std = standard.std(0, correction=0)
    torch.testing.assert_close(std, torch.full((CODE,), CODE_SCALE))
    assert torch.equal(with_weights_of(generator).standardize(training_codes), standard)


def test_standardization_of_a_single_painting_is_bounded() -> None:
    generator, code = untrained(), codes(1)
    code[:, -1] = 0  # a channel that is always zero
    generator.fit_standardization(code)
    assert torch.equal(generator.standardize(code), torch.zeros(1, CODE))
    assert generator.standardize(1.1 * code).abs().max() <= 1.001 * CODE_SCALE


# --- layers ---------------------------------------------------------------------------------


def upsample_then_convolve(x: Tensor, layer: UpsampleConv) -> Tensor:
    """The definition: reflect, repeat each pixel, convolve, crop."""
    large = F.interpolate(F.pad(x, (1, 1, 1, 1), mode="reflect"), scale_factor=2.0)
    y = F.conv2d(large, layer.conv.weight, layer.conv.bias)
    crop = (5 - layer.conv.kernel_size[0]) // 2
    return y[..., crop : y.shape[-2] - crop, crop : y.shape[-1] - crop]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(2, 2), (5, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsample_conv_equals_its_definition(
    kernel: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    layer = UpsampleConv(4, 6, kernel).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64).contiguous(memory_format=layout)
    leaves = (x.requires_grad_(), *layer.parameters())
    found, expected = layer(x), upsample_then_convolve(x, layer)
    assert found.shape == (2, 6, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(y, leaves, upstream) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("stroke_size", [1, 1.3, 2, 2.5])
def test_residual_of_a_reduced_photo_is_added_at_full_size(stroke_size: float) -> None:
    generator, photo, code = trained(), 0.3 + 0.4 * photos(2, 90, 101), codes()
    s = torch.rand(2, 1, 90, 101)
    reduced = reduce_photo(photo, stroke_size)
    with torch.no_grad():
        generator.to_residual.conv.weight *= 0.2
        small = generator(reduced, code, 1.0, cond_strength=0.7)
        found = generator(photo, code, s, cond_strength=0.7, reduced=reduced)
    own, target = color_statistics(reduced), code[:, :COLOR_SIZE]
    # In float64: the residual is what the output at reduced size adds to the recolored photo.
    residual = to_logit(small.image.double()) - recolor(to_logit(reduced).double(), own, target)
    residual = F.interpolate(residual, (90, 101), mode="bilinear")
    z = to_logit(photo).double()
    base = z + s * (recolor(z, color_statistics(photo), target) - z)
    image = from_logit(base + s * residual)
    assert small.image.min() > 0  # not clamped, so the logit recovers the residual
    assert small.image.max() < 1
    torch.testing.assert_close(found.image.double(), image, rtol=0, atol=1e-4)
    assert torch.equal(found.attention, small.attention)


def test_too_large_strokes_are_refused() -> None:
    assert reduce_photo(photos(1, 64, 200), 2).shape == (1, 3, 32, 100)
    with pytest.raises(ValueError, match=r"reduces the photo to 67x21 pixels.*use 2 or less"):
        reduce_photo(photos(1, 64, 200), 3)
    with pytest.raises(ValueError, match="at least 32: use a larger photo"):
        reduce_photo(photos(1, 20, 200), 2)


def test_the_gate_keeps_the_photos_features_where_attention_is_high() -> None:
    generator = trained(gates_decoder=True)
    x4, x8, style = torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 24)
    mixed: list[Tensor] = []
    generator.up1.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    attention = torch.tensor([[[[0.0, 1e9]]]]).expand(1, 1, 8, 2).repeat_interleave(4, dim=3)
    generator.styled_blocks(x4, x8, style, attention, noise=None)
    (x,) = mixed
    torch.testing.assert_close(x[..., -4:], x8[..., -4:])
    assert (x[..., :4] - x8[..., :4]).abs().mean() > 0.1
