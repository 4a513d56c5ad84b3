from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from underdrawing.data.prefetch import prefetch_map


@pytest.mark.parametrize("ahead", [0, 1, 100])
def test_results_are_in_order(ahead: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert list(prefetch_map(pool, str, range(20), ahead)) == [str(i) for i in range(20)]


def test_at_most_ahead_calls_start_early() -> None:
    started: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        list(islice(prefetch_map(pool, started.append, range(50), 4), 10))
    assert len(started) <= 10 + 4


def test_an_error_is_raised_in_its_turn() -> None:
    with ThreadPoolExecutor(3) as pool:
        results = prefetch_map(pool, lambda i: 1 // i, [2, 1, 0, 1], 2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
