"""The Gram matrix has its own backward and its own choice of units; held against the formula."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from underdrawing.losses.style import gram

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    return LAYOUTS[request.param]


@pytest.fixture(params=["highest", "high", "medium"])
def matmul_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """What somebody else has set, process-wide."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def plain(f: Tensor) -> Tensor:
    """f fᵀ/(C·h·w)."""
    flat = f.flatten(2)
    return flat @ flat.mT / flat[0].numel()


def distance(a: Tensor, b: Tensor) -> float:
    """Relative to b, in the Frobenius norm."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def gradient(function: object, f: Tensor, upstream: Tensor) -> Tensor:
    f = f.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(f), f, upstream)  # type: ignore[operator]
    return found


def test_it_is_the_formula(layout: torch.memory_format, dtype: torch.dtype) -> None:
    f = torch.randn(2, 16, 9, 13, dtype=dtype).contiguous(memory_format=layout)
    assert gram(f).dtype == dtype
    torch.testing.assert_close(gram(f), plain(f))


def test_a_part_of_a_larger_tensor_will_do(layout: torch.memory_format) -> None:
    f = torch.randn(4, 16, 9, 13).contiguous(memory_format=layout)[1:3, 2:9, 1:, ::2]
    torch.testing.assert_close(gram(f), plain(f))


def test_its_gradient_is_the_finite_difference(layout: torch.memory_format) -> None:
    f = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout)
    assert gradcheck(gram, f.requires_grad_())


def test_its_gradient_is_autograds_of_the_formula(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Also for a gradient from above that is not symmetric."""
    f = torch.randn(2, 16, 9, 13, dtype=dtype).contiguous(memory_format=layout)
    upstream = torch.randn(2, 16, 16, dtype=dtype)
    torch.testing.assert_close(gradient(gram, f, upstream), gradient(plain, f, upstream))


def test_bfloat16_features_lose_nothing_more(layout: torch.memory_format) -> None:
    """bf16 numbers are multiplied exactly and added up in float32: a result that had once been
    rounded to bf16 would be off by about 1e-3. Measured: 1e-7.
    """
    f = torch.randn(2, 64, 32, 32).relu().bfloat16().contiguous(memory_format=layout)
    exact = plain(f.double())
    assert gram(f).dtype == torch.float32
    assert distance(gram(f), exact) < 1e-5
    assert distance(exact.bfloat16(), exact) > 5e-4


def test_bfloat16_features_get_a_gradient_rounded_to_bfloat16(
    layout: torch.memory_format,
) -> None:
    f = torch.randn(2, 64, 16, 16).relu().bfloat16().contiguous(memory_format=layout)
    upstream = torch.randn(2, 64, 64)
    found = gradient(gram, f, upstream)
    assert found.dtype == torch.bfloat16
    assert distance(found, gradient(plain, f.double(), upstream.double())) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_neither_it_nor_its_gradient(dtype: torch.dtype) -> None:
    f, upstream = torch.randn(2, 16, 9, 13).to(dtype), torch.randn(2, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, gradient_inside = gram(f), gradient(gram, f, upstream)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, gram(f))
    assert torch.equal(gradient_inside, gradient(gram, f, upstream))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_matmul_precision_is_as_it_was(matmul_precision: str, dtype: torch.dtype) -> None:
    f = torch.randn(1, 4, 5, 6, dtype=dtype, requires_grad=True)
    gram(f).sum().backward()
    assert torch.get_float32_matmul_precision() == matmul_precision


def test_the_matmul_precision_is_as_it_was_after_an_error(
    matmul_precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def failing(*_: object, **__: object) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "baddbmm", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        gram(torch.randn(1, 4, 5, 6).bfloat16())
    assert seen == ["medium"]
    assert torch.get_float32_matmul_precision() == matmul_precision


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_float32_features_are_multiplied_as_precisely_as_asked(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, product = [], torch.baddbmm

    def watched(*args: Tensor, **options: float) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return product(*args, **options)

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "baddbmm", watched)
    torch.set_float32_matmul_precision(precision)
    gram(torch.randn(1, 4, 5, 6))
    torch.set_float32_matmul_precision(before)
    assert seen == [precision]
