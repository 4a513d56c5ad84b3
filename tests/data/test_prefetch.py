from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from underdrawing.data.prefetch import prefetch_map


@pytest.mark.parametrize("ahead", [0, 1, 5, 100])
def test_results_come_in_order(ahead: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert list(prefetch_map(pool, str, range(20), ahead)) == [str(i) for i in range(20)]


def test_no_more_than_the_lead_is_begun_before_its_turn() -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        list(islice(prefetch_map(pool, begun.append, range(50), 4), 10))
    assert len(begun) <= 10 + 4


def test_a_failure_arrives_at_its_turn() -> None:
    with ThreadPoolExecutor(3) as pool:
        results = prefetch_map(pool, lambda i: 1 // i, [2, 1, 0, 1], 2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
