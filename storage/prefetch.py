"""Prefetching: threads produce the next items while the caller processes the current one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

_POLL_S = 0.2
_JOIN_TIMEOUT_S = 0.5
"""Maximum number of seconds to wait for the thread to end. The thread may be waiting for a store that does not answer,
and this must not delay a worker that stops."""
_END = object()


def prefetched[T](items: Generator[T]) -> Generator[T]:
    """Yield the items in order, while a thread produces one item in advance.

    An error from `items` is raised after all earlier items were yielded. Only the thread iterates over `items` and
    closes `items`. If this generator is closed early, the thread first finishes its current item.

    At any moment, a signal handler may raise an error, and the garbage collector may close an abandoned generator in
    any thread. If this code held a lock at that moment, the process could deadlock. Therefore the code avoids Python
    locks: the caller and the thread share queues that are implemented in C. The thread is a daemon outside any pool,
    because `threading` uses a lock for all other threads.
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
            item, error = wait_for(results, [thread])
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # otherwise the traceback keeps the data alive until the next garbage collection
            if item is _END:
                return
            requests.put(True)
            yield item
            del item
    finally:
        requests.put(False)
        _join([thread])


def map_ahead[S, T](
    function: Callable[[S], T],
    items: Iterable[S],
    *,
    threads: int,
    weigh: Callable[[S], int] = lambda _: 1,
    budget: int,
) -> Generator[T]:
    """Yield the results of a function in the order of the items. Threads compute the next results meanwhile.

    An error of the function is raised after all earlier results. If this generator is closed early, no further item is
    begun. The function avoids locks for the same reasons as `prefetched`.

    Parameters
    ----------
    items : iterable
        The arguments of the function. The thread of the caller iterates over these items.
    threads : int
        Maximum number of threads. Each thread is started when it is needed.
    weigh : callable
        Returns the weight of an item, such as the bytes that its result takes.
    budget : int
        Maximum total weight of the items in progress: items that are begun, but whose results are not yielded yet. An
        item that is heavier than the budget is processed alone.

    Examples
    --------
    >>> list(map_ahead(abs, [-3, 1, -2], threads=2, budget=2))
    [3, 1, 2]
    """
    tasks: SimpleQueue[tuple[S, SimpleQueue[tuple[Any, BaseException | None]]] | None] = SimpleQueue()
    closed: list[bool] = []

    def work() -> None:
        while (task := tasks.get()) is not None:
            if not closed:
                item, answer = task
                try:
                    answer.put((function(item), None))
                except BaseException as error:  # noqa: BLE001  # raised again in the consumer's thread
                    answer.put((None, error))
                del item, answer
            del task

    workers: list[threading.Thread] = []
    begun: deque[tuple[int, SimpleQueue[tuple[Any, BaseException | None]]]] = deque()
    weight = 0
    left = iter(items)
    try:
        upcoming: Any = next(left, _END)
        while begun or upcoming is not _END:
            while upcoming is not _END and (not begun or weight + weigh(upcoming) <= budget):
                answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
                begun.append((weigh(upcoming), answer))
                weight += begun[-1][0]
                tasks.put((upcoming, answer))
                if len(workers) < min(threads, len(begun)):
                    workers.append(threading.Thread(target=work, name="prefetch", daemon=True))
                    workers[-1].start()
                upcoming = next(left, _END)
            done, answer = begun.popleft()
            result, error = wait_for(answer, workers)
            weight -= done
            if error is not None:
                try:
                    raise error
                finally:
                    del error
            yield result
            del result
    finally:
        closed.append(True)
        for _ in workers:
            tasks.put(None)
        _join(workers)


def wait_for[T](results: SimpleQueue[T], threads: Sequence[threading.Thread]) -> T:
    """Return the next result of any of the threads. While waiting for a result, wake up regularly to handle signals."""
    while True:
        try:
            return results.get(timeout=_POLL_S)
        except Empty:
            if not any(thread.is_alive() for thread in threads) and results.empty():
                raise RuntimeError(f"the {threads[0].name} thread has died") from None


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait briefly for threads to end. Ignore the current thread and threads that were never started."""
    end_s = time.monotonic() + _JOIN_TIMEOUT_S
    for thread in threads:
        if thread.ident not in (None, threading.get_ident()):
            thread.join(max(0.0, end_s - time.monotonic()))
