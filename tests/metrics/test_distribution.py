from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from underdrawing.metrics.distribution import MIN_IMAGES, frechet_distance, kernel_distance


def normal(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def correlated(count: int, size: int, seed: int) -> Tensor:
    """Correlated features with a nonzero mean."""
    return normal(count, size, seed) @ normal(size, size, seed + 100) + normal(1, size, seed + 200)


def test_frechet_distance_is_finite_for_singular_covariances() -> None:
    a, b = (correlated(1000, 4, seed) @ normal(4, 16, seed + 9) for seed in (0, 1))
    eigenvalues = torch.linalg.eigvals(torch.cov(a.T.double()) @ torch.cov(b.T.double()))
    assert eigenvalues.real.min() < 0  # by rounding
    distance = frechet_distance(a, b)
    assert distance is not None
    assert 0 < distance < np.inf


@pytest.mark.parametrize(
    ("outputs", "paintings", "available"),
    [(999, 999, False), (1000, 19, False), (1000, 20, True), (20, 1000, False)],
)
def test_frechet_distance_needs_1000_outputs(outputs: int, paintings: int, available: bool) -> None:
    distance = frechet_distance(correlated(outputs, 4, 0), correlated(paintings, 4, 1))
    assert (distance is not None) == available


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def unbiased_mmd(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    within = [np.mean([kernel(u, v) for u, v in permutations(z, 2)]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(u, v) for u in x for v in y]))


def test_kernel_distance_equals_the_double_loop_for_sets_of_unequal_size() -> None:
    a, b = correlated(33, 6, 0), correlated(25, 6, 1)
    assert kernel_distance(a, b) == pytest.approx(unbiased_mmd(a, b), rel=1e-9)


def test_kernel_distance_needs_a_minimum_of_images_per_set() -> None:
    enough, few = normal(MIN_IMAGES, 4, 0), normal(MIN_IMAGES - 1, 4, 1)
    assert kernel_distance(enough, few) is None
    assert kernel_distance(few, enough) is None
    assert kernel_distance(enough, normal(MIN_IMAGES, 4, 1)) is not None


def test_distances_equal_those_of_torch_fidelity() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity not installed")
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity not installed")
    a, b = correlated(1000, 16, 0), correlated(1060, 16, 1)
    statistics = (fid.fid_features_to_statistics(x) for x in (a, b))
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(a, b) == pytest.approx(expected[fid.KEY_METRIC_FID], rel=1e-5)
    b = b[:1000]
    expected = kid.kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=1000, verbose=False)
    assert kernel_distance(a, b) == pytest.approx(expected[kid.KEY_METRIC_KID_MEAN], rel=1e-5)


class NoDouble(TorchFunctionMode):
    """Refuses float64 as MPS does, for tensors that count as on MPS until they are moved."""

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function == torch.Tensor.is_mps.__get__:  # type: ignore[attr-defined]
            return True
        if function is torch.Tensor.cpu:
            self.moved += 1
        if function is torch.Tensor.double:
            assert self.moved, "float64 on MPS"
        return function(*args, **(kwargs or {}))

    moved = 0


def test_float64_is_computed_on_the_cpu_for_mps() -> None:
    features = torch.rand(30, 4)
    expected = kernel_distance(features, features + 1)
    with NoDouble() as mode:
        assert kernel_distance(features, features + 1) == expected
    assert mode.moved == 2
