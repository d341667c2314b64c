"""Rows of COPY are collected in one block of memory, by functions such as those of libpq."""

from __future__ import annotations

import contextlib
import ctypes
import socket
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from scoreline.tasks.databases.source import receiving

copy_block = pytest.importorskip("scoreline.tasks.databases.source.copy_block", reason="it was not compiled")

_GET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int)
_CONSUME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
CONNECTION = 42

type Served = Callable[..., tuple[Server, Any]]


class Server:
    """Sends rows, and what `PQgetCopyData` returns if there is none: 0, -1 or -2."""

    def __init__(self, sent: Sequence[bytes | int]) -> None:
        self.sent = list(sent)
        self.rows: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.consumed, self.sound = 0, True
        self.ours, self.theirs = socket.socketpair()
        self._kept = (_GET(self._get), _CONSUME(self._consume), _FREE(self._free))

    def functions(self) -> tuple[int, ...]:
        return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._kept)

    def receive(self, block: Any, enough: int, timeout_ms: int = 60_000) -> int:
        return int(block.receive(CONNECTION, self.ours.fileno(), enough, timeout_ms))

    def _get(self, connection: int, row: ctypes._Pointer[ctypes.c_void_p], nonblocking: int) -> int:
        assert (connection, nonblocking) == (CONNECTION, 1)
        found = self.sent.pop(0)
        if isinstance(found, int):
            return found
        memory = ctypes.create_string_buffer(found, len(found))
        self.rows[ctypes.addressof(memory)] = memory
        row[0] = ctypes.c_void_p(ctypes.addressof(memory))
        return len(found)

    def _consume(self, connection: int) -> int:
        self.ours.recv(1)
        self.consumed += 1
        return int(self.sound)

    def _free(self, row: int) -> None:
        del self.rows[row]


@pytest.fixture
def served() -> Iterator[Served]:
    """Return a function that starts a server and makes a block for it."""
    with contextlib.ExitStack() as sockets:

        def serve(*sent: bytes | int) -> tuple[Server, Any]:
            server = Server(sent)
            sockets.enter_context(server.ours)
            sockets.enter_context(server.theirs)
            return server, copy_block.Block(server.functions(), 8)

        yield serve


def test_a_block_ends_with_the_row_that_fills_it_and_is_used_again(served: Served) -> None:
    server, block = served(b"one", b"two", b"three", -1)
    assert server.receive(block, 4) == copy_block.MORE
    assert bytes(block) == b"onetwo"
    block.clear()
    assert server.receive(block, 6) == copy_block.DONE
    assert (bytes(block), len(block)) == (b"three", 5)
    assert not server.rows  # each was freed, once


def test_a_row_may_be_larger_than_the_memory(served: Served) -> None:
    server, block = served(b"a", b"b" * 100_000, b"c", -1)
    assert server.receive(block, 1_000_000) == copy_block.DONE
    assert bytes(block) == b"a" + b"b" * 100_000 + b"c"


def test_a_silent_server_is_waited_for(served: Served) -> None:
    server, block = served(b"a", 0, 0, b"b", -1)
    assert server.receive(block, 9, timeout_ms=1) == copy_block.SILENT
    assert (bytes(block), server.consumed) == (b"a", 0)
    server.theirs.send(b"x")
    assert server.receive(block, 9) == copy_block.DONE
    assert (bytes(block), server.consumed) == (b"ab", 1)


def test_a_lost_connection_is_told_apart_from_the_end(served: Served) -> None:
    server, block = served(b"a", -2)
    assert server.receive(block, 9) == copy_block.FAILED
    server, block = served(b"a", 0)
    server.sound = False
    server.theirs.close()
    assert server.receive(block, 9) == copy_block.FAILED


def test_a_block_in_use_does_not_change(served: Served) -> None:
    server, block = served(b"a", b"b", -1)
    server.receive(block, 1)
    with memoryview(block) as used:
        for change in (block.clear, lambda: server.receive(block, 9)):
            with pytest.raises(BufferError, match="the block is in use"):
                change()
        with pytest.raises(TypeError, match="read-only"):
            used[0] = 1
    assert server.receive(block, 9) == copy_block.DONE
    assert bytes(block) == b"ab"


@pytest.mark.skipif(psycopg.pq.__impl__ == "python", reason="the driver is not compiled")
def test_no_function_is_called_if_the_driver_may_use_another_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    load, module, found = ctypes.CDLL, psycopg.pq.PGconn.__module__, receiving.functions_of.__wrapped__
    assert found(module) is not None
    preloaded = SimpleNamespace(PQgetCopyData=1)
    monkeypatch.setattr(ctypes, "CDLL", lambda file: preloaded if file is None else load(file))
    assert found(module) is None
