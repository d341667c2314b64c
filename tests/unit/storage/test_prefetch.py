"""Items of a generator are prefetched in a thread."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.prefetch import map_ahead, prefetched
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.compressed import open_plain
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.text import Opener, read_blocks
from tests.support.waiting import HANG_S


def test_items_come_in_order_and_the_next_is_produced_meanwhile() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Generator[int]:
        for number in range(100):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = prefetched(items())
    assert next(found) == 0
    assert second.wait(HANG_S)  # the generator produces the second item before it is requested
    time.sleep(0.05)
    assert made == [0, 1]  # the generator produces no third item yet, because each item takes memory
    assert list(found) == list(range(1, 100))


def test_an_error_is_raised_after_the_items_that_precede_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("torn")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="torn"):
        next(found)


def test_a_system_exit_in_the_thread_is_raised_in_the_thread_that_iterates() -> None:
    def items() -> Generator[int]:
        yield 1
        raise SystemExit(3)

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(SystemExit) as raised:
        next(found)
    assert raised.value.code == 3


class Torn(Exception):
    """An error that the generator raises, and that nothing else references."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_error_is_released_once_it_is_handled() -> None:
    threads: list[threading.Thread] = []

    def items() -> Generator[int]:
        threads.append(threading.current_thread())
        yield 1
        raise Torn

    found = prefetched(items())
    next(found)
    try:
        next(found)
    except Torn as error:
        held = weakref.ref(error)
    threads[0].join(HANG_S)
    assert held() is None  # the error is released, and so is all data that its traceback references


def test_an_item_is_released_before_waiting_for_the_next_one() -> None:
    class Item:
        pass

    gone = threading.Event()
    in_time: list[bool] = []

    def items() -> Generator[Item]:
        yield Item()
        in_time.append(gone.wait(HANG_S))
        yield Item()

    found = prefetched(items())
    first = next(found)
    weakref.finalize(first, gone.set)
    del first
    next(found)
    found.close()
    assert in_time == [True]


def test_a_signal_is_handled_while_an_item_is_produced() -> None:
    heard = threading.Event()

    def items() -> Generator[bool]:
        time.sleep(0.05)  # give the other thread time to begin waiting
        # the signal is sent to this thread, and does not interrupt the other one
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        yield heard.wait(HANG_S)

    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        assert list(prefetched(items())) == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


FORKED = """
import os, signal, threading
from scoreline.storage.prefetch import map_ahead, prefetched

def items():
    yield 1
    threading.Event().wait()

found = prefetched(items())
next(found)
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(20)
try:
    next(found)
except RuntimeError as error:
    os._exit(7 if "has died" in str(error) else 8)
os._exit(9)
"""


def test_a_forked_process_does_not_wait_for_the_thread_of_its_parent() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], timeout=HANG_S, check=False).returncode == 7


def test_a_generator_that_is_abandoned_is_closed_by_the_thread_that_iterates_over_it() -> None:
    closed_by: list[threading.Thread] = []
    closed = threading.Event()

    def items() -> Generator[int]:
        try:
            yield from range(9)
        finally:
            closed_by.append(threading.current_thread())
            closed.set()

    source = items()  # this reference keeps garbage collection from closing the generator
    found = prefetched(source)
    next(found)
    found.close()
    assert closed.wait(HANG_S)
    assert closed_by[0].name == "prefetch"
    assert next(source, None) is None


def test_closing_early_waits_briefly_for_the_thread() -> None:
    def is_gone_in_time() -> bool:
        threads: list[threading.Thread] = []

        def items() -> Generator[int]:
            threads.append(threading.current_thread())
            try:
                yield from range(9)
            finally:
                time.sleep(0.05)

        found = prefetched(items())
        next(found)
        found.close()
        gone = not threads[0].is_alive()
        threads[0].join(HANG_S)
        return gone

    assert any(is_gone_in_time() for _ in range(20))  # try again only if the machine is busy


def test_closing_early_leaves_no_thread_behind() -> None:
    stuck = threading.Event()

    def items() -> Generator[int]:
        yield 1
        stuck.wait(HANG_S)
        yield 2

    others = set(threading.enumerate())  # ignore threads of earlier tests that have not ended yet
    found = prefetched(items())
    assert next(found) == 1
    (thread,) = set(threading.enumerate()) - others
    assert thread.name == "prefetch"
    found.close()
    assert thread.is_alive()  # `close` did not wait for the stuck generator
    stuck.set()
    thread.join(HANG_S)
    assert not thread.is_alive()


def letters() -> Generator[str]:
    yield from "abc"


def text_of_lines(tmp_path: Path) -> Iterator[object]:
    store = DirectoryStore(tmp_path, "data")
    info = store.put("a.jsonl", b"id,x\n" * 100)
    source = Pinned.of(store, info)
    return read_blocks(source, opener_of(source), RecordFinder(), 0, None, first_row=0, block_bytes=50)


def opener_of(source: Pinned) -> Opener:
    return lambda: contextlib.nullcontext(open_plain(source))


@pytest.mark.parametrize("make", [lambda _: prefetched(letters()), text_of_lines])
def test_garbage_collection_during_the_start_of_a_thread_cannot_deadlock(
    make: Callable[[Path], Generator[object]], tmp_path: Path
) -> None:
    # Given an abandoned generator, and a thread that holds the lock of `threading` for non-daemon threads
    found = make(tmp_path)
    next(found)
    lock = threading._shutdown_locks_lock  # type: ignore[attr-defined]

    def close() -> None:
        with lock:
            found.close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(HANG_S)
    # When the thread with the lock closes the generator, then it is not blocked
    if stuck := thread.is_alive():
        lock.release()  # release the lock for the following tests
    assert not stuck


class AskedStore(DirectoryStore):
    """Records which ranges are requested."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.asked: list[tuple[int, int] | None] = []
        self.twice = threading.Event()

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        self.asked.append(byte_range)
        if len(self.asked) == 2:
            self.twice.set()
        return super().get(key, byte_range=byte_range, **options)


def test_a_text_is_read_further_while_its_first_records_are_processed(tmp_path: Path) -> None:
    store = AskedStore(tmp_path, "data")
    size = RangedFile.WHOLE_BYTES
    info = store.put("a.jsonl", b"id,x\n" * size)  # five blocks
    source = Pinned.of(store, info)
    found = read_blocks(source, opener_of(source), RecordFinder(), 0, None, first_row=0, block_bytes=size)
    first = next(found)
    assert store.twice.wait(HANG_S)  # the second block is read before it is requested
    assert store.asked == [(0, size), (size, 2 * size)]  # no third block was requested
    assert sum(len(block.records) for block in (first, *found)) == size


def test_results_come_in_the_order_of_the_items_although_others_are_ready_before() -> None:
    last = threading.Event()

    def double(item: int) -> int:
        if item == 0:
            assert last.wait(HANG_S)  # the first item takes longer than all others
        if item == 9:
            last.set()
        return 2 * item

    assert list(map_ahead(double, range(10), threads=3, budget=10)) == [2 * item for item in range(10)]


def test_an_error_is_raised_after_the_results_that_precede_it_and_nothing_is_begun_after_it() -> None:
    begun: list[int] = []

    def check(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("torn")
        return item

    before = set(threading.enumerate())
    found = map_ahead(check, range(1_000), threads=4, budget=8)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="torn"):
        next(found)
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert len(begun) <= 2 + 8


@pytest.mark.parametrize(("budget", "ahead"), [(1, 1), (5, 1), (10, 2), (30, 6), (1_000, 50)])
def test_the_results_that_are_begun_stay_within_the_budget(budget: int, ahead: int) -> None:
    begun: list[int] = []
    found = map_ahead(begun.append, range(50), threads=8, weigh=lambda _: 5, budget=budget)
    for number in range(50):
        next(found)
        assert len(begun) <= number + 1 + ahead
    assert next(found, "the end") == "the end"


def test_a_closed_map_ends_its_threads_and_begins_nothing_more() -> None:
    begun: list[int] = []
    go_on, started = threading.Event(), threading.Event()

    def wait(item: int) -> int:
        begun.append(item)
        if item > 0:
            started.set()
            assert go_on.wait(HANG_S)
        return item

    before = set(threading.enumerate())
    found = map_ahead(wait, range(100), threads=2, budget=10)
    assert next(found) == 0
    assert started.wait(HANG_S)
    found.close()  # `close` does not wait for the store
    go_on.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert len(begun) <= 3
