"""Fetches ranges of a pinned object in parallel and in the order of need, with a fixed amount of memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue

from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.prefetch import wait_for

CONNECTIONS = 8
"""Number of requests at a time. R2 sends 50 to 100 MB/s per connection, so 8 connections are enough for a fast
network."""
BLOCK_BYTES = 256 << 10
"""Size of a block. The bytes of a request that is read bit by bit are fetched into blocks. Each block can be used for
the next request as soon as its bytes are read."""


class Request:
    """A range of bytes to fetch with one request."""

    __slots__ = ("block_bytes", "data", "error", "is_sent", "row", "start", "stop", "takers")

    def __init__(self, start: int, stop: int, row: int, takers: int = 1) -> None:
        self.start = start
        self.stop = stop
        self.row = row
        """The first row that needs these bytes, counted from the beginning of the object."""
        self.takers = takers
        """Number of times that the bytes will be taken."""
        self.block_bytes = stop - start
        """Size of the blocks that the bytes are fetched into, by default a single one. Bytes that are read bit by bit
        are fetched into blocks of `BLOCK_BYTES`."""
        self.is_sent = False
        self.data: Sequence[memoryview] | None = None
        """The bytes: blocks, of which only the last may be smaller than the others. They are in memory mappings of
        their own. Memory on the heap could not be given back, because smaller allocations prevent the heap from
        shrinking."""
        self.error: BaseException | None = None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


class _Shared:
    """The state that a fetcher shares with its threads.

    Threads do not refer to the fetcher, so that it can be garbage-collected.
    """

    def __init__(self, get_into: Callable[[int, Sequence[memoryview]], None]) -> None:
        self.get_into = get_into
        self.orders: SimpleQueue[Request | None] = SimpleQueue()
        self.landed: SimpleQueue[Request] = SimpleQueue()
        self.closed = False

    def serve(self) -> None:
        while (request := self.orders.get()) is not None and not self.closed:
            try:
                self._fetch(request)
            except BaseException as error:  # noqa: BLE001  # raised again in the consumer's thread
                request.error = error
            self.landed.put(request)
            del request

    def _fetch(self, request: Request) -> None:
        size, step = request.size, request.block_bytes
        data = [memoryview(MEMORY.array(step)[: size - begin]) for begin in range(0, size, step)]
        self.get_into(request.start, data)
        request.data = data
        if self.closed:
            request.data = None


class Fetcher:
    """Fetches requests in parallel, and keeps at most `budget_bytes` of unused bytes in memory.

    Only one thread may use a fetcher at a time. A fetcher has no locks, as in `scoreline.storage.prefetch.prefetched`,
    so that a signal handler or the garbage collector can close it at any moment.

    A block is used again when nothing refers to it any more (see `MEMORY`), because the first access to new memory
    takes longer than fetching bytes from a disk.

    Parameters
    ----------
    get_into : callable
        Fills buffers, one after another, with the bytes from a position on. Several threads call it in parallel.
    budget_bytes : int
        Maximum number of bytes that are requested or in memory. Only a request that the consumer waits for may exceed
        this number.
    requests : iterable of Request
        Requests to prefetch, in the order of need. The next request is taken from the iterable when there is memory for
        its bytes. None instead of a request means that no more rows are needed yet.
    connections : int
        Maximum number of requests at a time.
    """

    def __init__(
        self,
        get_into: Callable[[int, Sequence[memoryview]], None],
        budget_bytes: int,
        requests: Iterable[Request | None],
        connections: int = CONNECTIONS,
    ) -> None:
        self._shared = _Shared(get_into)
        self._budget = budget_bytes
        self._connections = connections
        self._threads: list[threading.Thread] = []
        self._waiting: set[Request] = set()
        """Requests that are sent, but whose bytes have not been taken by all chunks that need them."""
        self._upcoming: Iterator[Request | None] = iter(requests)
        self._next: Request | None = None
        self._flying = 0
        self._stop_row = 0
        self.held_bytes = 0
        """Number of bytes that are currently requested or in memory."""

    def fetch_until(self, row: int) -> None:
        """Prefetch the requests that rows before `row` need.

        Other requests are sent only when the consumer waits for them.
        """
        self._stop_row = row
        self._fill()

    def limit(self, budget_bytes: int) -> None:
        """Change the number of bytes that may be requested or in memory, and fetch more if it has grown."""
        self._budget = budget_bytes
        self._fill()

    def take(self, request: Request) -> Sequence[memoryview]:
        """Return the bytes of a request, and wait for them if necessary. Raise the error of the request if it failed.

        The bytes count towards the budget until `release` is called.
        """
        if not request.is_sent:
            self._send(request)
        while request.data is None:
            self._land(request)
        data = request.data
        request.takers -= 1
        if request.takers == 0:
            request.data = ()
            self._waiting.discard(request)
        return data

    def _land(self, awaited: Request) -> None:
        if (error := awaited.error) is not None:
            try:
                raise error
            finally:
                del error  # break the reference cycle between the error and its traceback
        wait_for(self._shared.landed, self._threads)
        self._flying -= 1

    def release(self, size: int) -> None:
        """Subtract released bytes from the memory in use, and fetch more."""
        self.held_bytes -= size
        self._fill()

    def close(self) -> None:
        """Release the unused bytes, and end the threads. A thread with a pending request ends when the store responds.

        Without this call, the bytes would stay in memory until a garbage collection, because the planned requests may
        refer to this fetcher.
        """
        self._shared.closed = True
        self._upcoming, self._next = iter(()), None
        while self._waiting:
            self._waiting.pop().data = None
        for _ in self._threads:
            self._shared.orders.put(None)

    def _fill(self) -> None:
        while not self._shared.closed and (request := self._next or next(self._upcoming, None)) is not None:
            self._next = None
            if request.is_sent:
                continue
            if request.row >= self._stop_row or self.held_bytes + request.size > self._budget:
                self._next = request
                break
            self._send(request)

    def _send(self, request: Request) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._shared.landed.get_nowait()
                self._flying -= 1
        request.is_sent = True
        self._waiting.add(request)
        self.held_bytes += request.size
        self._flying += 1
        self._shared.orders.put(request)
        if len(self._threads) < min(self._connections, self._flying):
            thread = threading.Thread(target=self._shared.serve, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()
