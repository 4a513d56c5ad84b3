import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from underdrawing.models.generator import (
    CODE_SCALE,
    Generator,
    from_logit,
    layout,
    to_logit,
)
from underdrawing.models.style_code import match_color, style_code

FEATURES = 4
CODE = 6 + 2 * FEATURES
CHANNELS = {"conv3_2": 5, "conv4_2": 7}
SIZES = [(32, 32), (33, 33), (32, 97), (45, 38), (71, 64), (97, 55)]


def untrained(**options: object) -> Generator:
    return Generator(CODE, width=8, blocks=2, **options)  # type: ignore[arg-type]


def trained(**options: object) -> Generator:
    """A generator whose paint and attention have left their zero start."""
    generator = untrained(**options)
    nn.init.normal_(generator.to_residual.conv.weight, std=0.1)
    if generator.attention is not None:
        nn.init.normal_(generator.attention.logits.weight)
    if generator.channel_attention is not None:
        for head in generator.channel_attention.heads.values():
            nn.init.normal_(head.get_parameter("weight"))
    return generator


def codes(batch: int) -> Tensor:
    features = torch.randn(batch, FEATURES, 8, 8).relu()
    return style_code(0.2 + 0.6 * torch.rand(batch, 3, 8, 8), {"l": features})


def touched(module: nn.Module) -> bool:
    """Whether any gradient has arrived."""
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_size_gives_a_picture_of_that_size_and_a_map_at_stride_8(
    height: int, width: int
) -> None:
    photo = torch.rand(2, 3, height, width)
    image, attention, channels = trained()(photo, codes(2))
    assert image.shape == photo.shape
    assert image.min() >= 0
    assert image.max() <= 1
    assert attention.shape == (2, 1, math.ceil(height / 8), math.ceil(width / 8))
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.mean(dim=(1, 2, 3)), torch.ones(2))
    assert channels == {}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47)])
def test_without_a_branch_attention_is_one_everywhere(height: int, width: int) -> None:
    attention = untrained(attention=False)(torch.rand(2, 3, height, width), codes(2)).attention
    assert torch.equal(attention, torch.ones(2, 1, math.ceil(height / 8), math.ceil(width / 8)))


def test_trained_attention_is_not_flat() -> None:
    assert trained()(torch.rand(1, 3, 64, 64), codes(1)).attention.std() > 0.01


@pytest.mark.parametrize("strength", [0.0, torch.zeros(2), torch.zeros(2, 1, 40, 48)])
def test_strength_zero_returns_the_photo_exactly(strength: Tensor | float) -> None:
    photo = torch.rand(2, 3, 40, 48)
    photo[:, :, :4], photo[:, :, 4:8] = 0, 1
    assert torch.equal(trained()(photo, codes(2), strength).image, photo)


def test_strength_is_obeyed_region_by_region() -> None:
    photo, strength = torch.rand(2, 3, 40, 48), torch.zeros(2, 1, 40, 48)
    strength[0, :, :20], strength[1, :, :, 30:] = 0.7, 1.0
    image = trained()(photo, codes(2), strength).image
    kept = (strength == 0).expand_as(photo)
    assert torch.equal(image[kept], photo[kept])
    assert (image != photo)[~kept].float().mean() > 0.99


def test_each_picture_has_its_own_strength() -> None:
    photo, code, generator = torch.rand(2, 3, 32, 32), codes(2), trained()
    image = generator(photo, code, torch.tensor([0.0, 0.5])).image
    assert torch.equal(image[0], photo[0])
    torch.testing.assert_close(image[1:], generator(photo[1:], code[1:], 0.5).image)


def test_a_constant_map_is_that_number() -> None:
    photo, code, generator = torch.rand(1, 3, 32, 40), codes(1), trained()
    flat = torch.full((1, 1, 32, 40), 0.25)
    torch.testing.assert_close(
        generator(photo, code, flat).image, generator(photo, code, 0.25).image
    )


def test_training_starts_from_the_photo_in_the_paintings_colors() -> None:
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    image = untrained()(photo, code).image
    torch.testing.assert_close(image, match_color(photo, code), rtol=0, atol=1e-5)


def test_half_the_strength_starts_half_way_to_the_colors() -> None:
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    image = untrained()(photo, code, 0.5).image
    expected = (photo + match_color(photo, code)) / 2
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_on_the_photo_as_base_training_starts_from_the_photo_itself(strength: float) -> None:
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    image = untrained(base="photo")(photo, code, strength).image
    torch.testing.assert_close(image, photo, rtol=0, atol=1e-5)
    painted = trained(base="photo")(photo, code, strength).image
    assert (painted - photo).abs().mean() > 0.01


def test_the_base_changes_no_weight() -> None:
    ours, theirs = untrained(base="photo").state_dict(), untrained().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_the_first_step_can_start_to_paint() -> None:
    generator = untrained()
    generator(torch.rand(1, 3, 32, 32), codes(1)).image.square().sum().backward()
    assert touched(generator.to_residual)


def test_logit_and_back_is_the_identity() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(from_logit(to_logit(x)), x)
    assert to_logit(x).abs().max() < 4


def test_the_style_and_the_strength_change_the_painting() -> None:
    generator, photo, code = trained(), torch.rand(1, 3, 32, 32), codes(2)
    one, other, weak = (
        generator(photo, c, s).image for c, s in [(code[:1], 1.0), (code[1:], 1.0), (code[:1], 0.5)]
    )
    assert (one - other).abs().mean() > 0.01
    assert (one - weak).abs().mean() > 0.01


def test_the_network_itself_is_told_the_strength() -> None:
    generator, photo, code = trained(), torch.rand(1, 3, 32, 32), codes(1)
    paints: list[Tensor] = []
    generator.to_residual.register_forward_hook(
        lambda _module, _inputs, paint: paints.append(paint)
    )
    for strength in (0.2, 1.0):
        generator(photo, code, strength)
    assert (paints[0] - paints[1]).abs().mean() > 1e-3


def test_attention_reads_the_photo_alone() -> None:
    generator, photo, code = trained(), torch.rand(1, 3, 64, 64), codes(2)
    one, other = generator(photo, code[:1]), generator(photo, code[1:], 0.3)
    assert torch.equal(one.attention, other.attention)


@pytest.mark.parametrize("gate", [False, True])
def test_attentions_loss_teaches_the_branch_and_cannot_pull_the_trunk(gate: bool) -> None:
    generator = trained(gate=gate, channels=CHANNELS)
    _, attention, channels = generator(torch.rand(2, 3, 48, 48), codes(2))
    loss = (attention * torch.randn_like(attention)).sum()
    loss = loss + sum((a * torch.randn_like(a)).sum() for a in channels.values())
    loss.backward()
    assert generator.attention is not None
    assert generator.channel_attention is not None
    branches = [generator.attention, generator.channel_attention]
    assert all(touched(branch) for branch in branches)
    rest = [m for name, m in generator.named_children() if "attention" not in name]
    assert not any(touched(module) for module in rest)


@pytest.mark.parametrize("gate", [False, True])
def test_the_picture_teaches_attention_only_through_the_gate(gate: bool) -> None:
    generator = trained(gate=gate)
    generator(torch.rand(2, 3, 48, 48), codes(2)).image.square().sum().backward()
    assert generator.attention is not None
    assert touched(generator.attention) == gate
    assert touched(generator.trunk)


def test_a_map_mixed_in_as_a_constant_learns_from_its_own_loss_alone() -> None:
    generator, photo, code = (
        trained(gate=True, gate_trains_attention=False),
        torch.rand(2, 3, 48, 48),
        codes(2),
    )
    image, attention, _ = generator(photo, code)
    image.square().sum().backward()
    assert generator.attention is not None
    assert not touched(generator.attention)
    assert touched(generator.trunk)
    attention = generator(photo, code).attention
    (attention * torch.randn_like(attention)).sum().backward()
    assert touched(generator.attention)


def test_whether_the_mixing_teaches_does_not_change_the_picture() -> None:
    taught, untaught = trained(gate=True), trained(gate=True, gate_trains_attention=False)
    untaught.load_state_dict(taught.state_dict())
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    assert torch.equal(taught(photo, code).image, untaught(photo, code).image)


def test_a_map_that_is_mixed_in_changes_the_picture() -> None:
    gated, plain = trained(gate=True, gate_trains_attention=False), trained()
    plain.load_state_dict(gated.state_dict())
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    assert (gated(photo, code).image - plain(photo, code).image).abs().mean() > 1e-3


def test_without_a_branch_half_is_mixed_in_everywhere() -> None:
    even, mapped = trained(gate=True, attention=False), trained(gate=True)
    even.load_state_dict(mapped.state_dict(), strict=False)
    assert mapped.attention is not None
    nn.init.zeros_(mapped.attention.logits.weight)  # A = 1
    photo, code = torch.rand(2, 3, 40, 48), codes(2)
    torch.testing.assert_close(even(photo, code).image, mapped(photo, code).image)


def attended_and_plain() -> tuple[Generator, Generator]:
    attended, plain = trained(modulates_strength=True), trained()
    plain.load_state_dict(attended.state_dict())
    return attended, plain


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_no_and_full_strength_are_what_they_are_whatever_the_map(strength: float) -> None:
    attended, plain = attended_and_plain()
    photo, code = torch.rand(2, 3, 44, 52), codes(2)
    ours, theirs = (g(photo, code, strength).image for g in (attended, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert strength == 1 or torch.equal(ours, photo)


def test_an_modulates_strength_is_s_to_the_power_of_the_map() -> None:
    attended, plain = attended_and_plain()
    photo, code = torch.rand(2, 3, 44, 52), codes(2)
    image, attention, _ = attended(photo, code, 0.5)
    a = torch.nn.functional.interpolate(attention, scale_factor=8, mode="bilinear")[..., :44, :52]
    assert (a.amax(dim=(1, 2, 3)) > 1.05).all()
    torch.testing.assert_close(image, plain(photo, code, 0.5**a).image)
    assert (image - plain(photo, code, 0.5).image).abs().mean() > 1e-4


def test_the_picture_does_not_teach_the_map_that_its_strength_follows() -> None:
    attended, _ = attended_and_plain()
    attended(torch.rand(2, 3, 48, 48), codes(2), 0.5).image.square().sum().backward()
    assert attended.attention is not None
    assert not touched(attended.attention)
    assert touched(attended.trunk)


def test_channel_attention_has_mean_one_per_layer() -> None:
    channels = trained(channels=CHANNELS)(torch.rand(2, 3, 32, 32), codes(2)).channels
    assert {layer: a.shape for layer, a in channels.items()} == {
        layer: (2, c) for layer, c in CHANNELS.items()
    }
    for a in channels.values():
        assert (a >= 0).all()
        torch.testing.assert_close(a.mean(1), torch.ones(2))


@pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31), (8, 8)])
def test_too_small_a_photo_is_refused_in_words(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width}x{height} pixels; .* at least 32"):
        untrained()(torch.rand(1, 3, height, width), codes(1))


def test_the_layout_depends_on_whether_gradients_are_wanted() -> None:
    generator, inputs = trained(), []
    generator.stem.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    photo = torch.rand(2, 3, 40, 48)
    generator(photo, codes(2))
    with torch.no_grad():
        assert layout() == torch.channels_last
        generator(photo, codes(2))
    assert [x.is_contiguous() for x in inputs] == [True, False]
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in inputs] == [False, True]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_result_depends_neither_on_gradients_nor_on_the_photos_layout(
    height: int, width: int
) -> None:
    generator, photo, code = trained(gate=True), torch.rand(2, 3, height, width), codes(2)
    expected = generator(photo, code, 0.7)
    assert expected.image.requires_grad
    for given in (photo, photo.contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            alone = generator(given, code, 0.7)
        for found in (alone, generator(given, code, 0.7)):
            torch.testing.assert_close(found.image, expected.image, rtol=0, atol=1e-5)
            torch.testing.assert_close(found.attention, expected.attention, rtol=1e-4, atol=1e-5)


def test_a_large_pale_photo_loses_no_digits() -> None:
    """torch's norm on channels_last takes E[x²] - E[x]², all in float32."""
    generator = trained()
    coarse = torch.rand(1, 3, 8, 8)
    photo = 0.9 + 0.1 * nn.functional.interpolate(coarse, (512, 512), mode="bilinear")
    code = codes(1)
    exact = generator.double()(photo.double(), code.double()).image
    with torch.no_grad():
        image = generator.float()(photo, code).image
    torch.testing.assert_close(image.double(), exact, rtol=0, atol=1e-3)


def test_leaving_out_the_branch_does_not_change_the_picture() -> None:
    generator, photo, code = trained(channels=CHANNELS), torch.rand(2, 3, 40, 48), codes(2)
    alone = generator(photo, code, attend=False)
    assert torch.equal(alone.image, generator(photo, code).image)
    assert torch.equal(alone.attention, torch.ones(2, 1, 5, 6))
    assert alone.channels == {}


def test_the_branch_cannot_be_left_out_where_its_map_is_mixed_in() -> None:
    generator, photo, code = trained(gate=True), torch.rand(2, 3, 40, 48), codes(2)
    alone, whole = generator(photo, code, attend=False), generator(photo, code)
    assert torch.equal(alone.image, whole.image)
    assert torch.equal(alone.attention, whole.attention)


@pytest.mark.parametrize("gate", [False, True])
def test_a_picture_does_not_depend_on_its_batch(gate: bool) -> None:
    generator = trained(gate=gate, channels=CHANNELS).double()
    photo, code = torch.rand(3, 3, 40, 48).double(), codes(3).double()
    strength = torch.tensor([1.0, 0.6, 0.2]).double()
    together = generator(photo, code, strength)
    for i in range(3):
        one = slice(i, i + 1)
        alone = generator(photo[one], code[one], strength[one])
        torch.testing.assert_close(alone.image, together.image[one], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.attention, together.attention[one])
        for layer in CHANNELS:
            torch.testing.assert_close(alone.channels[layer], together.channels[layer][one])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [untrained, trained])
def test_a_flat_photo_is_painted_with_finite_gradients(
    value: float, make: Callable[..., Generator]
) -> None:
    generator = make(channels=CHANNELS)
    photo = torch.full((1, 3, 40, 40), value, requires_grad=True)
    image, attention, _ = generator(photo, codes(1))
    (image.square().sum() + attention.square().sum()).backward()
    assert image.isfinite().all()
    assert photo.grad is not None
    gradients = [photo.grad, *(p.grad for p in generator.parameters() if p.grad is not None)]
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_gradients_stay_finite_at_both_ends_of_the_strength(strength: float) -> None:
    generator, s = trained(), torch.tensor([strength], requires_grad=True)
    generator(torch.rand(1, 3, 32, 32).round(), codes(1), s).image.square().sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in generator.parameters() if p.grad is not None)


def test_there_is_no_batchnorm() -> None:
    generator = untrained(gate=True, channels=CHANNELS)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in generator.modules())


def test_standardized_codes_have_mean_zero_and_one_spread() -> None:
    generator, paintings = untrained(), 5 + torch.randn(64, CODE)
    generator.fit_standardization(paintings)
    standard = generator.standardize(paintings)
    torch.testing.assert_close(standard.mean(0), torch.zeros(CODE), rtol=0, atol=1e-5)
    spread = standard.std(0, correction=0)
    torch.testing.assert_close(spread, torch.full((CODE,), CODE_SCALE))


def test_a_single_painting_is_standardized_without_blowing_up() -> None:
    generator, painting = untrained(), codes(1)
    painting[:, -1] = 0  # a channel that never fires
    generator.fit_standardization(painting)
    assert torch.equal(generator.standardize(painting), torch.zeros(1, CODE))
    assert generator.standardize(1.1 * painting).abs().max() <= 1.001 * CODE_SCALE


def test_standardization_is_stored_with_the_model() -> None:
    generator, again = untrained(), untrained()
    generator.fit_standardization(codes(5))
    again.load_state_dict(generator.state_dict())
    assert torch.equal(again.code_std, generator.code_std)
    assert torch.equal(again.code_mean, generator.code_mean)
