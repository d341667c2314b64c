"""Prefetching: a thread produces the next item of a generator while the caller works on the current one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from queue import Empty, SimpleQueue
from typing import Any

_POLL_S = 0.2
_JOIN_TIMEOUT_S = 0.5
"""How long to wait for the thread at the end. It may be waiting for a store that does not answer, and a worker that is
stopping cannot wait for that."""
_END = object()


def prefetched[T](items: Generator[T]) -> Generator[T]:
    """Yield the items in order, while a thread produces the next one; it is never more than one item ahead.

    An error that `items` raises is raised here, after the items that precede it. Only the thread iterates over `items`,
    and it closes the generator. If this generator is closed early, the thread first finishes the item that it is
    producing.

    A signal handler may raise at any moment, and the garbage collector may close an abandoned generator at any moment,
    in any thread. Therefore nothing here takes a lock that either of them could find held: the two threads share queues
    that are implemented in C, and the thread is a daemon rather than part of a pool, because `threading` takes a lock
    for all other threads.
    """
    results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    requests: SimpleQueue[bool] = SimpleQueue()

    def produce() -> None:
        try:
            with contextlib.closing(items):
                while requests.get():
                    results.put((next(items, _END), None))
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that iterates
            results.put((_END, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    try:
        thread.start()
        requests.put(True)
        while True:
            try:
                item, error = results.get(timeout=_POLL_S)  # wakes up regularly, so that signals are handled
            except Empty:
                if not thread.is_alive() and results.empty():
                    raise RuntimeError("the prefetch thread has died") from None
                continue
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # else its traceback keeps the data alive until the next collection
            if item is _END:
                return
            requests.put(True)
            yield item
            del item
    finally:
        requests.put(False)
        if thread.ident not in (None, threading.get_ident()):
            thread.join(_JOIN_TIMEOUT_S)
