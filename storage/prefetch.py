"""The next item of an iterator is made while the one before is worked on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from queue import Empty, SimpleQueue
from typing import Any

_POLL_S = 0.2
_LEAVE_S = 0.5
"""Not longer: it may wait for a store that does not answer, and a worker that is told to stop must not."""
_END = object()


def prefetched[T](items: Generator[T]) -> Generator[T]:
    """Yield the items in order, each made by a thread while the one before is worked on, and no further ahead.

    What iterating raises is raised here, after the items before it. The thread alone touches `items`, and closes it;
    where this generator is closed early, that is after the item that it is at.

    A signal's exception may come at any moment, and so may the collector, in whatever thread, for a generator that
    somebody left in the middle: no lock is taken that either can find held. So the thread is a daemon (`threading` has
    a lock for all others) and no pool, and what it shares are queues written in C.
    """
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    wanted: SimpleQueue[bool] = SimpleQueue()

    def make() -> None:
        try:
            with contextlib.closing(items):
                while wanted.get():
                    made.put((next(items, _END), None))
        except BaseException as error:  # noqa: BLE001  # whoever iterates has to hear of it
            made.put((_END, error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    try:
        thread.start()
        wanted.put(True)
        while True:
            try:
                item, error = made.get(timeout=_POLL_S)  # wakes up, so that signals are heard
            except Empty:
                if not thread.is_alive() and made.empty():
                    raise RuntimeError("the thread that reads ahead has died") from None
                continue
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # else it holds what was read until the collector comes
            if item is _END:
                return
            wanted.put(True)
            yield item
            del item
    finally:
        wanted.put(False)
        if thread.ident not in (None, threading.get_ident()):
            thread.join(_LEAVE_S)
