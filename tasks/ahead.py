"""The next item of an iterator is made while the one before is worked on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from typing import Any

_POLL_S = 0.2
_LEAVE_S = 0.5
"""Not longer: it may wait for a store that does not answer, and a worker that is told to stop must not."""
_END = object()


def ahead[T](items: Iterator[T], depth: int = 1) -> Generator[T]:
    """Yield the items in order, up to `depth` of them made in advance by a thread.

    What iterating raises is raised here, after the items before it. The thread alone touches `items`; where the
    generator is closed early, it ends with the item that it is at.

    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    made: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    over = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not over.is_set():
            try:
                made.put((item, error), timeout=_POLL_S)
            except Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                put(item)
                if over.is_set():
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001  # whoever iterates has to hear of it
            put(_END, error)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = made.get(timeout=_POLL_S)  # wakes up, so that signals are heard
            except Empty:
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        over.set()
        with contextlib.suppress(Empty):
            made.get_nowait()
        thread.join(_LEAVE_S)
