import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from underdrawing.metrics.distribution import MIN_PICTURES, frechet_distance, kernel_distance


def normal(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def mixed(count: int, size: int, seed: int) -> Tensor:
    """Correlated features off the origin."""
    return normal(count, size, seed) @ normal(size, size, seed + 100) + normal(1, size, seed + 200)


def exactly(mean: Tensor, std: Tensor, seed: int) -> Tensor:
    """A sample whose own mean and covariance are exactly these."""
    x = normal(50, len(mean), seed).double()
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    return white * std + mean


@pytest.mark.parametrize("size", [2, 8, 32])
def test_frechet_is_the_formula_with_scipys_root(size: int) -> None:
    a, b = mixed(80, size, 0), mixed(60, size, 1)
    cov_a, cov_b = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    gap = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    expected = gap + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_between_gaussians_along_the_axes_is_known() -> None:
    mean_a, std_a = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    mean_b, std_b = torch.tensor([3.0, 1.0, 0.0]).double(), torch.tensor([2.0, 2.0, 0.5]).double()
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    measured = frechet_distance(exactly(mean_a, std_a, 0), exactly(mean_b, std_b, 1))
    assert measured == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_of_a_set_with_itself_is_zero_and_a_shift_adds_its_square() -> None:
    a = mixed(100, 16, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(a, a + 0.5) == pytest.approx(16 * 0.25, rel=1e-3)


def test_frechet_survives_features_that_depend_on_each_other() -> None:
    a, b = (mixed(100, 4, seed) @ normal(4, 16, seed + 9) for seed in (0, 1))
    eigenvalues = torch.linalg.eigvals(torch.cov(a.T.double()) @ torch.cov(b.T.double()))
    assert eigenvalues.real.min() < 0  # by rounding
    distance = frechet_distance(a, b)
    assert distance is not None
    assert np.isfinite(distance)
    assert distance > 0


@pytest.mark.parametrize(("n", "m"), [(16, 99), (99, 16), (5, 5)])
def test_frechet_of_too_few_pictures_is_not_available(n: int, m: int) -> None:
    assert frechet_distance(mixed(n, 16, 0), mixed(m, 16, 1)) is None
    assert frechet_distance(mixed(17, 16, 0), mixed(17, 16, 1)) is None  # more than 16, but few
    assert frechet_distance(mixed(20, 16, 0), mixed(20, 16, 1)) is not None
    assert frechet_distance(mixed(20, 20, 0), mixed(20, 20, 1)) is None


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def unbiased_mmd(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()

    def within(z: np.ndarray) -> float:
        n = len(z)
        pairs = [kernel(z[i], z[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    across = [kernel(u, v) for u in x for v in y]
    return within(x) + within(y) - 2 * sum(across) / len(across)


def test_kernel_distance_is_the_double_loop() -> None:
    a, b = mixed(25, 6, 0), mixed(25, 6, 1)
    assert kernel_distance(a, b) == pytest.approx(unbiased_mmd(a, b), rel=1e-9)


def test_kernel_distance_of_two_points_is_known_by_hand() -> None:
    """k(0,0) = 1, k(1,1) = (1 + 1)³ = 8, k(0,1) = 1: 1 + 8 - 2 = 7; D > 1 divides x·y."""
    zeros, ones = torch.zeros(20, 1), torch.ones(25, 1)
    assert kernel_distance(zeros, ones) == pytest.approx(7)
    in_one_of_two = torch.tensor([1.0, 0.0]).expand(25, 2)  # (1/2 + 1)³ = 27/8
    assert kernel_distance(torch.zeros(20, 2), in_one_of_two) == pytest.approx(1 + 27 / 8 - 2)


def test_kernel_distance_of_two_values_is_known_by_hand() -> None:
    """Half of a set is 0, half is 1, the other set is 0.

    Of its 20 · 19 ordered pairs 10 · 9 are (1,1) with k = 8, the rest have k = 1.
    """
    halves, zeros = torch.tensor([0.0, 1.0]).repeat(10)[:, None], torch.zeros(20, 1)
    expected = (90 * 8 + 290 * 1) / 380 + 1 - 2
    assert kernel_distance(halves, zeros) == pytest.approx(expected)


def test_distances_are_those_of_torch_fidelity() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not here")
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not here")
    a, b = mixed(80, 16, 0), mixed(80, 16, 1)
    theirs = fid.fid_statistics_to_metric(
        *(fid.fid_features_to_statistics(x) for x in (a, b)), verbose=False
    )
    assert frechet_distance(a, b) == pytest.approx(theirs[fid.KEY_METRIC_FID], rel=1e-5)
    whole = {"kid_subsets": 1, "kid_subset_size": 80, "verbose": False}
    theirs = kid.kid_features_to_metric(a, b, **whole)
    assert kernel_distance(a, b) == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=1e-5)


def test_kernel_distance_counts_every_picture_of_unequal_sets() -> None:
    a, b = mixed(33, 6, 0), mixed(25, 6, 1)
    assert kernel_distance(a, b) == pytest.approx(unbiased_mmd(a, b), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    draws = [kernel_distance(normal(30, 4, 2 * k), normal(30, 4, 2 * k + 1)) for k in range(300)]
    values = np.array(draws, dtype=float)
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert (values < 0).mean() > 0.3


def test_kernel_distance_sees_a_shift() -> None:
    near, far = (
        kernel_distance(normal(60, 4, 0), normal(60, 4, 1) + shift) for shift in (0.0, 1.0)
    )
    assert near is not None
    assert far is not None
    assert far > near + 1


def test_kernel_distance_of_too_few_pictures_is_not_available() -> None:
    enough, few = normal(MIN_PICTURES, 4, 0), normal(MIN_PICTURES - 1, 4, 1)
    assert kernel_distance(enough, few) is None
    assert kernel_distance(few, enough) is None
    assert kernel_distance(enough, normal(MIN_PICTURES, 4, 1)) is not None
