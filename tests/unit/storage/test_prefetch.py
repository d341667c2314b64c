"""Items made in advance."""

from __future__ import annotations

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
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.text import read_blocks


def test_all_come_in_order_and_the_next_is_made_meanwhile() -> None:
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
    assert second.wait(5)  # though nobody has asked for it
    time.sleep(0.05)
    assert made == [0, 1]  # and no more of them: each takes memory
    assert list(found) == list(range(1, 100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("torn")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="torn"):
        next(found)


def test_a_call_to_exit_while_an_item_is_made_ends_whoever_waits_for_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise SystemExit(3)

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(SystemExit) as told:
        next(found)
    assert told.value.code == 3


class Torn(Exception):
    """Raised by items, and held by nobody."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_error_is_held_by_nobody_once_it_is_dealt_with() -> None:
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
    threads[0].join(5)
    assert held() is None  # nor what was read until then, which its traceback leads to


def test_an_item_is_gone_before_the_next_one_is_waited_for() -> None:
    class Item:
        pass

    gone = threading.Event()
    in_time: list[bool] = []

    def items() -> Generator[Item]:
        yield Item()
        in_time.append(gone.wait(5))
        yield Item()

    found = prefetched(items())
    first = next(found)
    weakref.finalize(first, gone.set)
    del first
    next(found)
    found.close()
    assert in_time == [True]


def test_a_signal_is_heard_while_an_item_is_made() -> None:
    heard = threading.Event()

    def items() -> Generator[bool]:
        time.sleep(0.05)  # until somebody waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # which interrupts no other thread
        yield heard.wait(5)

    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        assert list(prefetched(items())) == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


FORKED = """
import os, signal, threading
from scoreline.storage.prefetch import prefetched

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


def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], timeout=60, check=False).returncode == 7


def test_what_is_left_early_is_closed_by_the_thread_that_read_it() -> None:
    closed_by: list[threading.Thread] = []
    closed = threading.Event()

    def items() -> Generator[int]:
        try:
            yield from range(9)
        finally:
            closed_by.append(threading.current_thread())
            closed.set()

    source = items()  # held here too: it is not closed because nobody has it any more
    found = prefetched(source)
    next(found)
    found.close()
    assert closed.wait(5)
    assert closed_by[0].name == "prefetch"
    assert next(source, None) is None


def test_whoever_leaves_early_waits_a_moment_for_the_thread() -> None:
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
        threads[0].join(5)
        return gone

    assert any(is_gone_in_time() for _ in range(20))  # the first time, unless the machine is busy


def test_whoever_leaves_early_leaves_no_thread_and_waits_for_none() -> None:
    stuck = threading.Event()

    def items() -> Generator[int]:
        yield 1
        stuck.wait(30)
        yield 2

    found = prefetched(items())
    assert next(found) == 1
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5  # the store that it waits for does not answer
    stuck.set()
    thread.join(5)
    assert not thread.is_alive()


def letters() -> Generator[str]:
    yield from "abc"


def text_of_lines(tmp_path: Path) -> Iterator[object]:
    store = DirectoryStore(tmp_path, "data")
    info = store.put("a.jsonl", b"id,x\n" * 100)
    return read_blocks(Pinned.of(store, info), None, RecordFinder(), 0, None, first_row=0, block_bytes=50)


@pytest.mark.parametrize("make", [lambda _: prefetched(letters()), text_of_lines])
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


class AskedStore(DirectoryStore):
    """Counts what it is asked for."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.asked: list[tuple[int, int] | None] = []
        self.twice = threading.Event()

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        self.asked.append(byte_range)
        if len(self.asked) == 2:
            self.twice.set()
        return super().get(key, byte_range=byte_range, **options)


def test_a_text_is_read_on_while_its_first_records_are_worked_on(tmp_path: Path) -> None:
    store = AskedStore(tmp_path, "data")
    size = RangedFile.WHOLE_BYTES
    info = store.put("a.jsonl", b"id,x\n" * size)  # five blocks
    found = read_blocks(Pinned.of(store, info), None, RecordFinder(), 0, None, first_row=0, block_bytes=size)
    first = next(found)
    assert store.twice.wait(5)  # though nobody has asked for the second block
    assert store.asked == [(0, size), (size, 2 * size)]  # nor is any further one in memory
    assert sum(len(block.records) for block in (first, *found)) == size
