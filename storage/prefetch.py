"""Prefetching: a thread produces the next item of a generator while the caller processes the current one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from queue import Empty, SimpleQueue
from typing import Any

_POLL_S = 0.2
_JOIN_TIMEOUT_S = 0.5
"""Maximum number of seconds to wait for the thread to end. It may be waiting for a store that does not answer, and a
stopping worker cannot wait for that."""
_END = object()


def prefetched[T](items: Generator[T]) -> Generator[T]:
    """Yield the items in order. Meanwhile a thread produces the next item, but never more than one in advance.

    If `items` raises an error, it is raised here after all earlier items. Only the thread iterates over `items`, and it
    also closes `items`. If this generator is closed early, the thread first finishes its current item.

    At any moment, a signal handler may raise an error, and the garbage collector may close an abandoned generator in
    any thread. If this code held a lock at that moment, the process could deadlock. Therefore it avoids locks: the two
    threads share queues that are implemented in C. The thread is a daemon and not part of a pool, because `threading`
    acquires a lock for all other threads.
    """
    results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    requests: SimpleQueue[bool] = SimpleQueue()

    def produce() -> None:
        try:
            with contextlib.closing(items):
                while requests.get():
                    results.put((next(items, _END), None))
        except BaseException as error:  # noqa: BLE001  # raised again in the consumer's thread
            results.put((_END, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    try:
        thread.start()
        requests.put(True)
        while True:
            try:
                item, error = results.get(timeout=_POLL_S)  # wake up regularly, so that signals are handled
            except Empty:
                if not thread.is_alive() and results.empty():
                    raise RuntimeError("the prefetch thread has died") from None
                continue
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # otherwise its traceback would keep the data alive until the next garbage collection
            if item is _END:
                return
            requests.put(True)
            yield item
            del item
    finally:
        requests.put(False)
        if thread.ident not in (None, threading.get_ident()):
            thread.join(_JOIN_TIMEOUT_S)
