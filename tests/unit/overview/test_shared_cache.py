"""Many readers cost as little as one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from scoreline.storage.errors import StoreUnavailable
from scoreline.tasks.overview import shared_cache
from scoreline.tasks.overview.shared_cache import SharedCache
from tests.support.waiting import HANG_S


def test_fifty_readers_at_once_read_once_and_all_get_the_value() -> None:
    cache, reads, begun, go_on = SharedCache(), [], threading.Event(), threading.Event()

    def read() -> str:
        reads.append(threading.get_ident())
        begun.set()
        assert go_on.wait(HANG_S)
        return "value"

    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(cache.get, "key", 60.0, read) for _ in range(50)]
        assert begun.wait(HANG_S)
        go_on.set()
        assert {answer.result(HANG_S) for answer in answers} == {"value"}
    assert len(reads) == 1


def test_a_value_is_read_again_when_it_is_old_and_when_something_was_changed() -> None:
    now = [0.0]
    cache, reads = SharedCache(lambda: now[0]), iter(range(100))
    seen = [cache.get("a", 10, lambda: next(reads)) for now[0] in (0, 9, 10, 19, 20)]
    assert seen == [0, 0, 1, 1, 2]
    cache.forget()
    assert cache.get("a", 10, lambda: next(reads)) == 3
    assert cache.get("b", 10, lambda: next(reads)) == 4


def test_a_slow_value_does_not_hold_up_another() -> None:
    cache, begun, go_on = SharedCache(), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert go_on.wait(HANG_S)
        return 1

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, "slow", 10, slow)
        assert begun.wait(HANG_S)
        assert cache.get("fast", 10, lambda: 2) == 2
        go_on.set()
        assert waiting.result(HANG_S) == 1


def test_a_store_that_is_away_is_asked_once_and_a_defect_is_not_kept() -> None:
    cache, asked = SharedCache(), []

    def away() -> int:
        asked.append(1)
        raise StoreUnavailable("away")

    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            cache.get("a", 10, away)
    assert len(asked) == 1
    with pytest.raises(ZeroDivisionError):
        cache.get("b", 10, lambda: 1 // 0)
    assert cache.get("b", 10, lambda: 1) == 1


def test_the_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "MOST_VALUES", 3)
    cache = SharedCache()
    for number in range(4):
        cache.get(number, 60, lambda: "old")
    assert [cache.get(number, 60, lambda: "new") for number in (3, 2, 1, 0)] == ["old", "old", "old", "new"]
