import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from underdrawing.models.color import (
    COLOR_SIZE,
    LUMA,
    OPPONENT,
    REGULARIZATION,
    color_statistics,
    from_logit,
    keep_chroma,
    recolor,
    to_logit,
    with_colors_of,
    without_covariance,
)

AXES = torch.tensor(OPPONENT, dtype=torch.float64)
STD = [3, 5, 8]  # entries of the statistics on the factor's diagonal


def images(batch: int = 2, height: int = 24, width: int = 31) -> Tensor:
    """Smooth images with correlated channels."""
    coarse = F.interpolate(torch.rand(batch, 3, 4, 5), (height, width), mode="bilinear")
    return 0.7 * coarse + 0.3 * coarse.mean(dim=1, keepdim=True)


def opponent(z: Tensor) -> Tensor:
    """Logits (B,3,H,W) in opponent axes, in float64."""
    return torch.einsum("oc,bchw->bohw", AXES, z.double())


def opponent_moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B,3) and covariance (B,3,3) of logits in opponent axes, in float64."""
    o = opponent(z).flatten(2)
    centered = o - o.mean(dim=2, keepdim=True)
    return o.mean(dim=2), centered @ centered.mT / o.shape[2]


def reference_statistics(image: Tensor) -> Tensor:
    mean, covariance = opponent_moments(to_logit(image.double()))
    factor = torch.linalg.cholesky(covariance + REGULARIZATION**2 * torch.eye(3).double())
    row, column = torch.tril_indices(3, 3)
    return torch.cat([mean, factor[:, row, column]], dim=1)


# --- logit and color statistics -------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_are_mean_and_cholesky_factor(layout: torch.memory_format) -> None:
    x = images().contiguous(memory_format=layout)
    found = color_statistics(x)
    assert found.shape == (2, COLOR_SIZE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference_statistics(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_of_12_megapixels_match_float64(layout: torch.memory_format) -> None:
    """One float32 sum over the plane is off by 1e-4, on channels_last by 3e-3."""
    rows = 0.9 + 0.1 * images(1, 3, 4000)
    x = rows.repeat(1, 1, 1000, 1).contiguous(memory_format=layout)
    found = color_statistics(x).double()
    torch.testing.assert_close(found, reference_statistics(rows), rtol=0, atol=1e-5)


def test_autocast_does_not_reduce_the_precision_of_colors() -> None:
    x = images()
    z, own = to_logit(x), color_statistics(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(color_statistics(x), own)
        moved = recolor(z, own, own.flip(0))
    assert torch.equal(moved, recolor(z, own, own.flip(0)))


# --- recoloring -----------------------------------------------------------------------------


def test_recolored_logits_have_the_targets_mean_and_covariance() -> None:
    """Up to the regularization, which is small beside the variances of these images."""
    z, target = to_logit(images()), to_logit(images())
    own, other = color_statistics(from_logit(z)), color_statistics(from_logit(target))
    mean, covariance = opponent_moments(recolor(z, own, other))
    expected_mean, expected_covariance = opponent_moments(target)
    torch.testing.assert_close(mean, expected_mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, expected_covariance, rtol=0, atol=0.02)


def test_luma_of_the_recolored_image_depends_on_luma_alone() -> None:
    own, target = color_statistics(images(1)), color_statistics(images(1))
    gray = torch.randn(1, 1, 8, 8).expand(1, 3, 8, 8)
    chroma = torch.einsum("oc,bohw->bchw", AXES[1:].float(), torch.randn(1, 2, 8, 8))
    plain, colored = recolor(gray, own, target), recolor(gray + chroma, own, target)
    torch.testing.assert_close(plain.sum(dim=1), colored.sum(dim=1), rtol=0, atol=1e-4)


def test_without_covariance_scales_each_axis_by_its_std() -> None:
    x, y = images(), images()
    own, target = (without_covariance(color_statistics(image)) for image in (x, y))
    variance = opponent_moments(to_logit(y))[1].diagonal(dim1=1, dim2=2)
    expected = (variance + REGULARIZATION**2).sqrt().float()
    torch.testing.assert_close(target[:, STD], expected, rtol=0, atol=1e-5)
    o, gain = opponent(to_logit(x)), (target[:, STD] / own[:, STD])[..., None, None]
    scaled = (o - own[:, :3, None, None]) * gain + target[:, :3, None, None]
    moved = opponent(recolor(to_logit(x), own, target))
    torch.testing.assert_close(moved, scaled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_photo_becomes_flat_with_finite_gradients(value: float) -> None:
    photo = torch.full((1, 3, 16, 16), value, requires_grad=True)
    target = color_statistics(images(1))
    moved = recolor(to_logit(photo), color_statistics(photo), target)
    moved.square().sum().backward()
    expected = (target[:, :3] @ AXES.float())[..., None, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-4)
    assert photo.grad is not None
    assert photo.grad.isfinite().all()


# --- color preservation ---------------------------------------------------------------------


def luma(x: Tensor) -> Tensor:
    return (x * torch.tensor(LUMA)[:, None, None]).sum(1)


def test_keep_chroma_takes_luma_of_the_output_and_chroma_of_the_photo() -> None:
    photo, stylized = 0.4 + 0.2 * torch.rand(2, 2, 3, 8, 8)  # far from clamping
    combined = keep_chroma(stylized, photo)
    torch.testing.assert_close(luma(combined), luma(stylized))
    for a, b in ((0, 1), (1, 2)):  # color differences determine the chroma
        torch.testing.assert_close(combined[:, a] - combined[:, b], photo[:, a] - photo[:, b])
    assert torch.equal(keep_chroma(photo, photo), photo)
    extreme = keep_chroma(torch.rand(1, 3, 9, 9).round(), torch.rand(1, 3, 9, 9))
    assert (extreme.min(), extreme.max()) == (0, 1)


def test_with_colors_of_replaces_the_color_statistics_alone() -> None:
    photo, code = images(), torch.rand(1, 14).expand(2, -1)
    own = with_colors_of(code, photo)
    assert torch.equal(own[:, :COLOR_SIZE], color_statistics(photo))
    assert torch.equal(own[:, COLOR_SIZE:], code[:, COLOR_SIZE:])
