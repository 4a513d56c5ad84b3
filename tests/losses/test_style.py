from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from underdrawing.losses.style import KINDS, StyleLoss, gram, gram_loss, statistics_loss

F64, BF16 = torch.float64, torch.bfloat16
each_kind = pytest.mark.parametrize("kind", KINDS)
each_form = pytest.mark.parametrize("relative", [True, False])


def pair(c: int = 3, h: int = 4, w: int = 5) -> tuple[Tensor, Tensor]:
    """Features of an output and of a painting of another size."""
    return torch.randn(2, c, h, w, dtype=F64), torch.randn(2, c, h + 1, w, dtype=F64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


# --- Gram matrix ----------------------------------------------------------------------------


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    return request.param


def gram_formula(f: Tensor) -> Tensor:
    return torch.einsum("bihw,bjhw->bij", f, f) / f[0].numel()


def gradient(function: Callable[[Tensor], Tensor], f: Tensor, upstream: Tensor) -> Tensor:
    f = f.detach().requires_grad_()
    return torch.autograd.grad(function(f), f, upstream)[0]


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_gram_and_its_gradient_equal_the_formula(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    f = torch.randn(2, 16, 9, 13, dtype=dtype).contiguous(memory_format=layout)
    assert gram(f).dtype == dtype
    torch.testing.assert_close(gram(f), gram_formula(f))
    upstream = torch.randn(2, 16, 16, dtype=dtype)  # not symmetric
    torch.testing.assert_close(gradient(gram, f, upstream), gradient(gram_formula, f, upstream))
    view = f[:, 2:9, 1:, ::2]
    torch.testing.assert_close(gram(view), gram_formula(view))


def test_gradcheck_of_gram(layout: torch.memory_format) -> None:
    f = torch.randn(2, 3, 4, 5, dtype=F64).contiguous(memory_format=layout)
    assert gradcheck(gram, f.requires_grad_())


def test_gram_of_bfloat16_features_is_exact_to_float32(layout: torch.memory_format) -> None:
    """Measured: 1e-7. Rounding the result to bfloat16 once would give 1e-3."""
    f = torch.randn(2, 64, 32, 32).relu().bfloat16().contiguous(memory_format=layout)
    exact = gram_formula(f.double())
    assert gram(f).dtype == torch.float32
    assert relative_error(gram(f), exact) < 1e-5
    upstream = torch.randn(2, 64, 64)
    found = gradient(gram, f, upstream)
    assert found.dtype == BF16
    assert relative_error(found, gradient(gram_formula, f.double(), upstream.double())) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_autocast_changes_neither_gram_nor_its_gradient(dtype: torch.dtype) -> None:
    f, upstream = torch.randn(2, 16, 9, 13).to(dtype), torch.randn(2, 16, 16)
    with torch.autocast("cpu", dtype=BF16):
        inside, gradient_inside = gram(f), gradient(gram, f, upstream)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, gram(f))
    assert torch.equal(gradient_inside, gradient(gram, f, upstream))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_matmul_precision_is_lowered_for_bfloat16_only_and_restored_after_an_error(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(*_: object, **__: object) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("out of memory")

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "baddbmm", fail)
    try:
        torch.set_float32_matmul_precision(precision)
        with pytest.raises(RuntimeError, match="out of memory"):
            gram(torch.randn(1, 4, 5, 6).to(dtype))
        assert seen == ["medium" if dtype == BF16 else precision]
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


# --- losses ---------------------------------------------------------------------------------


@each_form
def test_gram_loss_is_the_squared_difference_of_grams(relative: bool) -> None:
    f, p = pair()
    difference = (gram(f) - gram(p)).square().sum(dim=(1, 2))
    norm = gram(p).square().sum(dim=(1, 2)) if relative else torch.tensor(3**2)
    close(gram_loss(f, p, relative), difference / norm)


@each_form
@pytest.mark.parametrize("offset", [0, 1e4])
def test_statistics_loss_compares_means_and_stds(relative: bool, offset: float) -> None:
    """Also far from zero, where E[x²] - E[x]² in float32 would keep no digit."""
    f, p = torch.randn(2, 3, 32, 32) + offset, 2 * torch.randn(2, 3, 32, 32) + offset
    (mean, std), (target_mean, target_std) = (
        (x.mean(dim=(2, 3)), (x.var(dim=(2, 3), correction=0) + 1e-5).sqrt())
        for x in (f.double(), p.double())
    )
    difference = ((mean - target_mean) ** 2 + (std - target_std) ** 2).sum(1)
    norm = (target_mean**2 + target_std**2).sum(1) if relative else torch.tensor(3)
    found = statistics_loss(f, p, relative).double()
    torch.testing.assert_close(found, difference / norm, rtol=5e-3, atol=0)


@each_kind
def test_style_is_invariant_to_position_and_relative_style_to_scale(kind: str) -> None:
    f, p = pair()
    shuffled = f.flatten(2)[..., torch.randperm(20)].view_as(f)
    assert KINDS[kind](shuffled, f).max() < 1e-8
    scaled = KINDS[kind](1e2 * f, 1e2 * p)
    torch.testing.assert_close(scaled, KINDS[kind](f, p), rtol=1e-2, atol=0)
    assert KINDS[kind](torch.zeros_like(p), p).sub(1).abs().max() < 0.01


@each_kind
@each_form
def test_style_loss_is_the_mean_over_layers(kind: str, relative: bool, dtype: torch.dtype) -> None:
    pairs = {"relu1_1": pair(), "relu2_1": pair(c=5)}
    output = {layer: f.to(dtype) for layer, (f, _) in pairs.items()}
    painting = {layer: p.to(dtype) for layer, (_, p) in pairs.items()}
    expected = torch.stack([KINDS[kind](f, p, relative) for f, p in pairs.values()]).mean(0)
    loss = StyleLoss(tuple(pairs), kind, relative)
    close(loss(output, painting), expected)
    assert torch.equal(loss(output, output).float(), torch.zeros(2))


@each_kind
@each_form
def test_gradient_of_the_style_loss(
    kind: str, relative: bool, assert_gradient: Callable[..., None]
) -> None:
    f, p = torch.randn(2, 2, 2, 3, 3)
    assert_gradient(lambda x: KINDS[kind](x, p, relative), f)


@each_kind
@each_form
def test_half_precision_features_do_not_overflow(kind: str, relative: bool) -> None:
    f, p = (1e3 * torch.rand(2, 2, 8, 32, 32)).half()
    distance = KINDS[kind](f, p, relative)
    assert distance.dtype == torch.float32
    assert distance.isfinite().all()


@each_kind
def test_a_blank_painting_gives_finite_distance_and_gradients(kind: str) -> None:
    f, blank = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 3, 4, 4)
    distance = KINDS[kind](f, blank)
    distance.sum().backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()
    assert distance.isfinite().all()
