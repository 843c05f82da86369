from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ultralong_hf.data.threads import map_ahead


def test_results_come_in_order_whichever_is_done_first():
    later = threading.Event()

    def work(item):
        if item == 0:
            assert later.wait(10)
        if item == 2:
            later.set()
        return item * 10

    with ThreadPoolExecutor(3) as pool:
        assert list(map_ahead(pool, work, range(5), ahead=2)) == [0, 10, 20, 30, 40]


def test_no_more_is_begun_than_may_be_ahead():
    begun = []
    with (
        ThreadPoolExecutor(8) as pool,
        closing(map_ahead(pool, begun.append, range(100), ahead=2)) as results,
    ):
        next(results)
    assert sorted(begun) == [0, 1, 2]


def test_after_an_error_what_has_not_begun_is_not_done():
    begun = []

    def work(item):
        begun.append(item)
        if item == 1:
            raise ValueError("no")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="no"):
        list(map_ahead(pool, work, range(100), ahead=5))
    assert len(begun) < 20
