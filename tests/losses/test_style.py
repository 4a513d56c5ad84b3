from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from underdrawing.losses.style import (
    DIRECTIONS,
    KINDS,
    Moments,
    StyleLoss,
    draw_directions,
    gram_loss,
    half_size,
    moments,
    sliced_wasserstein,
    statistics_loss,
)

F64, BF16 = torch.float64, torch.bfloat16


def of_features(loss: Callable[[Moments, Moments, bool], Tensor]) -> Callable[..., Tensor]:
    return lambda f, p, relative=True: loss(moments(f), moments(p), relative)


DISTANCES = {
    "gram": of_features(gram_loss),
    "statistics": of_features(statistics_loss),
    "wasserstein": sliced_wasserstein,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
each_form = pytest.mark.parametrize("relative", [True, False])


def gram(f: Tensor) -> Tensor:
    return moments(f).gram


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


def test_gram_and_gradient_equal_the_formula(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    f = torch.randn(2, 16, 9, 13, dtype=dtype).contiguous(memory_format=layout)
    assert gram(f).dtype == dtype
    torch.testing.assert_close(gram(f), gram_formula(f))
    upstream = torch.randn(2, 16, 16, dtype=dtype)  # not symmetric
    torch.testing.assert_close(gradient(gram, f, upstream), gradient(gram_formula, f, upstream))
    view = f[:, 2:9, 1:, ::2]
    torch.testing.assert_close(gram(view), gram_formula(view))


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "highest"), (BF16, "medium")])
def test_matmul_precision_is_lowered_for_bfloat16_only_and_restored_after_an_error(
    dtype: torch.dtype, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(*_: object, **__: object) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "baddbmm", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        gram(torch.randn(1, 4, 5, 6).to(dtype))
    assert seen == [precision]
    assert torch.get_float32_matmul_precision() == "highest"


def test_moments_and_gradients_of_bfloat16_features_are_close_to_exact(
    layout: torch.memory_format,
) -> None:
    """The variance comes from the Gram matrix, and the gradient is one product."""
    f = (torch.randn(2, 64, 32, 32).relu() + torch.rand(1, 64, 1, 1)).bfloat16()
    f = f.contiguous(memory_format=layout)
    upstream = torch.randn(2, 64, 64) / 8, torch.randn(2, 64), torch.randn(2, 64)

    def exact(f: Tensor) -> Tensor:
        mean, variance = f.mean(dim=(2, 3)), f.var(dim=(2, 3), correction=0)
        return join(gram_formula(f), mean, variance)

    def join(*x: Tensor) -> Tensor:
        return torch.cat([y.flatten(1) for y in x], dim=1)

    assert relative_error(join(*moments(f)), exact(f.double())) < 1e-5
    variance = moments(f).variance.double()
    torch.testing.assert_close(variance, f.double().var((2, 3), correction=0), rtol=1e-4, atol=0)
    found = gradient(lambda f: join(*moments(f)), f, join(*upstream))
    expected = gradient(exact, f.double(), join(*upstream).double())
    assert relative_error(found, expected) < 5e-3


# --- losses ---------------------------------------------------------------------------------


@each_form
def test_gram_loss_is_the_squared_difference_of_grams(relative: bool) -> None:
    f, p = pair()
    difference = (gram(f) - gram(p)).square().sum(dim=(1, 2))
    norm = gram(p).square().sum(dim=(1, 2)) if relative else torch.tensor(3**2)
    close(DISTANCES["gram"](f, p, relative), difference / norm)


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
    found = DISTANCES["statistics"](f, p, relative).double()
    torch.testing.assert_close(found, difference / norm, rtol=5e-3, atol=0)


def wasserstein_formula(f: Tensor, p: Tensor, relative: bool, seed: int) -> Tensor:
    """For maps of the same size."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(f.shape[1], DIRECTIONS, generator=generator).double()
    directions = drawn / drawn.norm(dim=0)
    a, b = (torch.einsum("bchw,cd->bdhw", x.double(), directions) for x in (f, p))
    a, b = (x.flatten(2).sort(dim=2).values for x in (a, b))
    norm = b.var(dim=2, correction=0).mean(1) if relative else 1
    return (a - b).square().mean(dim=(1, 2)) / norm


@each_form
@pytest.mark.parametrize("seed", [0, 5])
def test_wasserstein_compares_sorted_projections(
    relative: bool, seed: int, dtype: torch.dtype
) -> None:
    f, p = torch.randn(2, 3, 6, 4, 5, dtype=dtype)[:2]
    directions = draw_directions(6, seed, torch.device("cpu"))
    found = sliced_wasserstein(f, p, relative, directions)
    assert found.dtype == dtype
    close(found, wasserstein_formula(f, p, relative, seed))
    assert torch.equal(directions, draw_directions(6, seed, torch.device("cpu")))
    assert not torch.equal(directions, draw_directions(6, seed + 1, torch.device("cpu")))


def test_sliced_wasserstein_of_a_painting_of_another_size_compares_quantiles() -> None:
    f = torch.randn(2, 4, 5, 6, dtype=F64)
    twice = f.repeat(1, 1, 2, 2)
    assert sliced_wasserstein(twice, f).max() < 0.01
    assert sliced_wasserstein(f, twice).max() < 0.01
    assert sliced_wasserstein(f + 1, twice).min() > 0.1


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_nearly_flat_painting_does_not_dominate(level: float) -> None:
    flat = torch.full((1, 4, 8, 8), level) + 1e-4 * torch.randn(1, 4, 8, 8)
    distance = sliced_wasserstein(torch.zeros(1, 4, 8, 8) + level + 0.3, flat)
    assert distance.isfinite()
    assert level == 0 or distance < 10


@each_kind
@each_form
def test_style_loss_adds_terms_of_its_kind(kind: str, relative: bool, dtype: torch.dtype) -> None:
    pairs = {"relu1_1": pair(), "relu2_1": pair(c=5)}
    output, half = ({k: s * f.to(dtype) for k, (f, _) in pairs.items()} for s in (1, 2))
    painting, half_painting = ({k: s * p.to(dtype) for k, (_, p) in pairs.items()} for s in (1, 3))

    def expected(output: dict[str, Tensor], painting: dict[str, Tensor]) -> Tensor:
        weights = {"gram": 1.0, "statistics": float(kind != "gram")}
        weights["wasserstein"] = 0.2 * (kind == "sliced_wasserstein")
        return torch.stack(
            [
                w * DISTANCES[name](output[layer], painting[layer], relative)
                for name, w in weights.items()
                for layer in pairs
            ]
        ).sum(0) / len(pairs)

    loss = StyleLoss(tuple(pairs), kind, relative)
    close(loss([output], [painting]), expected(output, painting))
    both = expected(output, painting) + 0.5 * expected(half, half_painting)
    close(loss([output, half], [painting, half_painting]), both)
    assert torch.equal(loss([output], [output]).float(), torch.zeros(2))


def test_sliced_wasserstein_leaves_large_maps_out_unless_all_are() -> None:
    large, small = torch.rand(2, 1, 3, 1, 80), torch.rand(2, 1, 3, 1, 64)
    layers = {"large": large, "small": small}
    output, painting = ({name: x[i] for name, x in layers.items()} for i in range(2))

    def wasserstein(*names: str) -> Tensor:
        full, less = (StyleLoss(names, kind) for kind in ("sliced_wasserstein", "statistics"))
        return (full([output], [painting]) - less([output], [painting])) / 0.2

    close(wasserstein("large", "small"), sliced_wasserstein(*small))
    close(wasserstein("large"), sliced_wasserstein(*large))


def test_half_size_copies_are_averages_of_four_pixels() -> None:
    image = torch.rand(2, 3, 6, 9)
    (half,) = half_size(image, "half_size")
    close(half[..., 1, 2], image[..., 2:4, 4:6].mean(dim=(2, 3)))
    assert half.shape == (2, 3, 3, 4)
    assert [len(half_size(image, kind)) for kind in KINDS] == [0, 0, 1, 1]


@each_distance
@each_form
def test_gradient_of_the_distances(distance: Callable[..., Tensor], relative: bool) -> None:
    f, p = (x.requires_grad_() for x in torch.randn(2, 2, 2, 3, 3, dtype=F64))
    assert gradcheck(lambda x: distance(x, p.detach(), relative), f)


@each_distance
@each_form
@pytest.mark.parametrize("half", [torch.float16, BF16])
def test_half_precision_features_do_not_overflow_under_autocast(
    distance: Callable[..., Tensor], relative: bool, half: torch.dtype
) -> None:
    f, p = (1e3 * torch.rand(2, 2, 8, 32, 32)).to(half)
    with torch.autocast("cpu", dtype=BF16):
        found = distance(f, p, relative)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, distance(f.float(), p.float(), relative), rtol=1e-5, atol=0)


@each_distance
def test_a_blank_painting_gives_finite_values_and_gradients(
    distance: Callable[..., Tensor],
) -> None:
    f, blank = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 3, 4, 4)
    value = distance(f, blank)
    value.sum().backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()
    assert value.isfinite().all()
