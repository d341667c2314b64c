"""The next item of an iterator is made while the one before is worked on."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Any

_POLL_S = 0.2
_LEAVE_S = 0.5
"""Not longer: it may wait for a store that does not answer, and a worker that is told to stop must not."""
_END = object()


def ahead[T](items: Iterator[T]) -> Generator[T]:
    """Yield the items in order, each made by a thread while the one before is worked on, and no further ahead.

    What iterating raises is raised here, after the items before it. The thread alone touches `items`; where the
    generator is closed early, it ends with the item that it is at.
    """
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()  # whose locks no signal can leave held
    room = threading.Semaphore(1)
    over = threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not over.is_set():
                made.put((next(items, _END), None))
        except BaseException as error:  # noqa: BLE001  # whoever iterates has to hear of it
            made.put((_END, error))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    try:
        thread.start()
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
            room.release()
            yield item
            del item
    finally:
        over.set()
        room.release()
        if thread.ident is not None:
            thread.join(_LEAVE_S)
