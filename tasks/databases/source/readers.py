"""Reads the pieces of a job by several connections that see one state of the database, and yields them in their order.

The first connection exports its snapshot, and the others import it. If the first dies before another has imported it,
or the server has no connection left, there are fewer readers. Each reader that dies in the middle of a piece ends the
attempt: all rows are read again, of a newer state.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyarrow as pa

from scoreline.storage.databases.connection import CONNECT_S, Connection

BLOCKS_AHEAD = 6
"""Number of blocks of a piece that may wait in memory, which is what a piece of a table usually has. At most one piece
for each reader waits: otherwise, readers that are faster than the writer of the files would hold the whole table."""
_POLL_S = 0.1

type Copy = Callable[[Connection, str], Generator[pa.Table]]
"""Returns the rows of a piece, in blocks."""
type Join = Callable[[], contextlib.AbstractContextManager[Connection | None]]
"""Opens another connection that sees the same state; None if there is none to have."""


def read_pieces(
    first: Connection, join: Join, copy: Copy, pieces: Sequence[str], connections: int
) -> Generator[pa.Table]:
    """Yield the rows of all pieces, in the order of the pieces. An error of any reader is raised at once."""
    count = min(connections, len(pieces))
    if count < 2:
        for piece in pieces:
            with contextlib.closing(copy(first, piece)) as tables:
                yield from tables
        return
    readers = _Readers(copy, pieces, count)
    with ThreadPoolExecutor(count, thread_name_prefix="source") as pool:
        try:
            pool.submit(readers.read, first)
            for _ in range(count - 1):
                pool.submit(readers.read_by, join)
            yield from readers.rows()
        finally:
            readers.stop()


class _Readers:
    """What the readers of a job share: which piece is next, and the rows that were read."""

    def __init__(self, copy: Copy, pieces: Sequence[str], count: int) -> None:
        self._stopped = threading.Event()
        self._copy, self._pieces = copy, pieces
        self._next = 0
        self._ahead = threading.Semaphore(count + 1)  # the piece whose rows are taken, and one for each reader
        self._guard = threading.Lock()
        self._error: BaseException | None = None
        self._reading: list[Connection] = []
        self._rows: list[queue.Queue[pa.Table | None]] = [queue.Queue(BLOCKS_AHEAD) for _ in pieces]

    def stop(self) -> None:
        """Let all readers end, also those that wait for the server."""
        with self._guard:
            self._stopped.set()
        self._ahead.release(len(self._pieces))
        while reading := tuple(self._reading):  # one may have sent its query after it was cancelled
            for connection in reading:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CONNECT_S)
            time.sleep(_POLL_S)

    def rows(self) -> Generator[pa.Table]:
        """Yield all rows in the order of the pieces."""
        for waiting in self._rows:
            while True:
                if self._error is not None:
                    raise self._error
                with contextlib.suppress(queue.Empty):
                    found = waiting.get(timeout=_POLL_S)
                    if found is None:
                        self._ahead.release()
                        break
                    yield found

    def read_by(self, join: Join) -> None:
        """Read pieces by another connection, if there is one."""
        with join() as connection:
            if connection is not None:
                self.read(connection)

    def read(self, connection: Connection) -> None:
        """Read pieces until none is left."""
        while (number := self._take(connection)) is not None:
            try:
                with contextlib.closing(self._copy(connection, self._pieces[number])) as tables:
                    for table in tables:
                        if not self._put(number, table):
                            return
                self._put(number, None)
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that takes the rows
                self._error = self._error or error
                return
            finally:
                self._reading.remove(connection)

    def _take(self, connection: Connection) -> int | None:
        """Return the number of the piece that a connection reads next; None if it should read no more."""
        self._ahead.acquire()
        with self._guard:
            if self._stopped.is_set() or self._next == len(self._pieces):
                return None
            self._next += 1
            self._reading.append(connection)
            return self._next - 1

    def _put(self, number: int, found: pa.Table | None) -> bool:
        """Hand over what was read. Return whether it is still wanted."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._rows[number].put(found, timeout=_POLL_S)
                return True
        return False
