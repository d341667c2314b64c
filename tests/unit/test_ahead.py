"""Items made in advance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from storage.ahead import ahead
from storage.objects.directory import DirectoryStore
from storage.tables.base import Pinned
from storage.tables.boundaries import Boundaries
from storage.tables.text import blocks


def test_all_come_in_order_and_the_next_is_made_meanwhile() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Generator[int]:
        for number in range(100):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(5)  # though nobody has asked for it
    time.sleep(0.05)
    assert made == [0, 1]  # and no more of them: each takes memory
    assert list(found) == list(range(1, 100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("torn")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="torn"):
        next(found)


def test_whoever_leaves_early_leaves_no_thread_and_waits_for_none() -> None:
    stuck = threading.Event()

    def items() -> Generator[int]:
        yield 1
        stuck.wait(30)
        yield 2

    found = ahead(items())
    assert next(found) == 1
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5  # the store that it waits for does not answer
    stuck.set()
    thread.join(5)
    assert not thread.is_alive()


def letters() -> Generator[str]:
    yield from "abc"


def text_of_lines(tmp_path: Path) -> Generator[object]:
    store = DirectoryStore(tmp_path, "data")
    info = store.put("a.jsonl", b"id,x\n" * 100)
    return blocks(Pinned.of(store, info), None, Boundaries(), 0, None, first_row=0, block_bytes=50)


@pytest.mark.parametrize("make", [lambda _: ahead(letters()), text_of_lines])
def test_the_collector_may_come_while_a_thread_starts(
    make: Callable[[Path], Generator[object]], tmp_path: Path
) -> None:
    # Given what is left in the middle, and a thread that is in the lock of all threads that are no daemons
    found = make(tmp_path)
    next(found)
    lock = threading._shutdown_locks_lock  # type: ignore[attr-defined]

    def close() -> None:
        with lock:
            found.close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(10)
    # Then that thread goes on
    if stuck := thread.is_alive():
        lock.release()  # for the tests that follow
    assert not stuck
