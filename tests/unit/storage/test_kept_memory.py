"""Unused memory serves other arrays, and is released in time."""

from __future__ import annotations

import mmap
import os
import threading
import warnings

import pytest

from scoreline.storage.kept_memory import KeptMemory
from scoreline.storage.process_memory import own_memory
from tests.support.waiting import wait_until

MIB = 1 << 20


def test_memory_is_used_again_only_when_nothing_refers_to_it() -> None:
    memory = KeptMemory()
    first = memory.array(MIB)
    first[:] = 7
    place, view = first.ctypes.data, memoryview(first)[100:200]
    del first
    other = memory.array(MIB)
    other[:] = 1
    assert bytes(view) == b"\x07" * 100
    del view
    assert memory.array(MIB - 5_000).ctypes.data == place


def test_only_a_limited_number_of_unused_bytes_is_kept() -> None:
    memory = KeptMemory(most_bytes=3 * MIB)
    arrays = [memory.array(MIB) for _ in range(5)]
    arrays.clear()
    assert memory.unused_bytes == 3 * MIB


def test_a_new_block_takes_the_place_of_unused_ones_of_another_size() -> None:
    memory = KeptMemory()
    arrays = [memory.array(MIB) for _ in range(40)]
    arrays.clear()
    large = memory.array(20 * MIB)
    assert len(large) + memory.unused_bytes == 40 * MIB


def test_a_large_block_is_released_only_for_as_many_small_ones() -> None:
    memory = KeptMemory()
    arrays = [memory.array(20 * MIB) for _ in range(2)]
    arrays.clear()
    arrays += [memory.array(MIB) for _ in range(19)]
    assert memory.unused_bytes == 40 * MIB
    arrays.append(memory.array(MIB))
    assert memory.unused_bytes == 20 * MIB


def test_memory_in_use_when_all_is_released_is_not_kept() -> None:
    memory = KeptMemory()
    used, unused = memory.array(MIB), memory.array(MIB)
    del unused
    assert memory.unused_bytes == MIB
    memory.release()
    del used
    assert memory.unused_bytes == 0


def test_unused_memory_is_released_after_some_time() -> None:
    memory = KeptMemory(kept_s=0.01)
    memory.array(MIB)
    wait_until(lambda: not memory.unused_bytes and memory._watcher is None, "the memory to be released")
    # And once more, after it was used again
    memory.array(MIB)
    wait_until(lambda: not memory.unused_bytes and memory._watcher is None, "the memory to be released")


def test_memory_is_not_kept_if_it_was_released_while_an_array_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = KeptMemory(kept_s=0)

    def take(size: int) -> mmap.mmap:
        wait_until(lambda: memory._watcher is None, "all unused memory to be released")
        return own_memory(size)

    monkeypatch.setattr(memory, "_take", take)
    memory.array(MIB)
    assert not memory.unused_bytes


def test_a_forked_process_releases_unused_memory_too() -> None:
    memory = KeptMemory(kept_s=0.01)
    while memory._watcher is None:
        memory.array(MIB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
        child = os.fork()
    if not child:
        status = 1
        try:
            memory.array(MIB)
            wait_until(lambda: not memory.unused_bytes, "the memory to be released")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_unused_memory_is_released_although_there_was_no_thread_for_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    memory = KeptMemory(kept_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="start"):
            memory.array(MIB)
    memory.array(MIB)
    wait_until(lambda: not memory.unused_bytes, "the memory to be released")
