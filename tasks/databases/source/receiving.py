"""Receives what COPY sends, in blocks that end with a whole row.

libpq cuts what COPY sends into rows. The driver makes Python objects of each row: to receive and decode 2,000,000 rows
of 6 columns then takes 0.8 s of CPU time instead of 0.2 s, most of it with the lock of the interpreter. Therefore,
`copy_block` calls the functions of the driver's libpq itself. It needs the extension, and a driver that is compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import selectors
import sys
from collections.abc import Buffer, Generator

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from scoreline.storage.databases.connection import CONNECT_S, Connection
from scoreline.tasks.databases.source.statement import accepted

try:
    from scoreline.tasks.databases.source import copy_block as copy_block  # tests leave it out
except ImportError:  # it was not compiled
    copy_block = None  # type: ignore[assignment]

BLOCK_BYTES = 2 << 20
"""Number of bytes that are decoded at a time."""
_POLL_MS = 100


def blocks(connection: Connection, query: str, form: str) -> Generator[Buffer]:
    """Yield what COPY sends in a format, in blocks of about `BLOCK_BYTES`. A block is valid until the next one.

    Raises
    ------
    psycopg.Error
        The server refuses the query, or the connection is lost.
    """
    server = connection.pgconn
    accepted(server.exec_(f"COPY ({query}\n) TO STDOUT (FORMAT {form})".encode()))
    try:
        functions = None if copy_block is None else functions_of(type(server).__module__)
        address: int | None = getattr(server, "pgconn_ptr", None)
        if functions and address:
            receiver: _CompiledReceiver | _PlainReceiver = _CompiledReceiver(server, address, functions)
        else:
            receiver = _PlainReceiver(server)
        while receiver.receive():
            yield receiver.block
            receiver.block.clear()
        while server.is_busy():
            _wait(server)
        for result in list(iter(server.get_result, None)):
            accepted(result)
        if len(receiver.block):
            yield receiver.block
    finally:
        if server.transaction_status == TransactionStatus.ACTIVE:  # the query would go on
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CONNECT_S)
            connection.close()


class _CompiledReceiver:
    """Collects rows in memory that is used again for each block."""

    def __init__(self, server: PGconn, address: int, functions: tuple[int, int, int]) -> None:
        self._server, self._address = server, address
        self.block = copy_block.Block(functions, BLOCK_BYTES + BLOCK_BYTES // 16)

    def receive(self) -> bool:
        """Collect rows until the block is full. Return whether there may be more."""
        server, found = self._server, copy_block.SILENT
        while found == copy_block.SILENT:  # returns at times, so that signals are handled
            found = self.block.receive(self._address, server.socket, BLOCK_BYTES, _POLL_MS)
        if found == copy_block.FAILED:
            raise psycopg.OperationalError(f"receiving rows failed: {server.get_error_message()}")
        return found == copy_block.MORE


class _PlainReceiver:
    """Does the same with the methods of the driver."""

    def __init__(self, server: PGconn) -> None:
        self._server = server
        self.block = bytearray()

    def receive(self) -> bool:
        """Collect rows until the block is full. Return whether there may be more."""
        while len(self.block) < BLOCK_BYTES:
            size, row = self._server.get_copy_data(1)
            if size < 0:
                return False
            if not size:  # the rest of the row is on its way
                _wait(self._server)
            self.block += row
        return True


def _wait(server: PGconn) -> None:
    """Wait until the server has sent something, and take it."""
    with selectors.DefaultSelector() as answers:
        answers.register(server.socket, selectors.EVENT_READ)
        answers.select()
    server.consume_input()


@functools.cache
def functions_of(module: str) -> tuple[int, int, int] | None:
    """Return the addresses of functions of the libpq of a module of the driver; None if they cannot be called."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or hasattr(ctypes.CDLL(None), "PQgetCopyData"):  # the driver calls a libpq of the whole process
        return None
    try:
        library = ctypes.CDLL(file)  # it is loaded already, and finds the names of the libraries that it needs
        get, consume, free = (
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            for name in ("PQgetCopyData", "PQconsumeInput", "PQfreemem")
        )
    except (OSError, AttributeError):  # a driver in Python, or one with libpq inside
        return None
    return get, consume, free
