"""Readers wait for a writer that is slower, and end with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from scoreline.tasks.databases.source import readers
from scoreline.tasks.databases.source.readers import read_pieces
from tests.support.waiting import HANG_S

PIECES = [str(number) for number in range(9)]


def test_no_more_pieces_wait_in_memory_than_there_are_readers() -> None:
    begun: list[str] = []
    far = threading.Event()
    connection: Any = SimpleNamespace(cancel_safe=lambda timeout: None)

    def copy(_: Any, piece: str) -> Generator[pa.Table]:
        begun.append(piece)
        if len(begun) > 3:
            far.set()
        yield pa.table({"piece": [piece]})
        if piece == "0":  # meanwhile, the other reader has nothing to wait for
            assert not far.wait(0.3), begun

    @contextlib.contextmanager
    def join() -> Iterator[Any]:
        yield connection

    rows = read_pieces(connection, join, copy, PIECES, 2)
    assert pa.concat_tables(rows)["piece"].to_pylist() == PIECES
    assert sorted(begun) == PIECES


def test_a_query_that_was_sent_after_it_was_cancelled_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_POLL_S", 0.001)
    sent, cancelled = threading.Event(), threading.Event()
    calls: list[float] = []

    def cancel(timeout: float) -> None:
        calls.append(timeout)
        if len(calls) == 1:  # the server does not know the query yet
            sent.set()
        else:
            cancelled.set()

    def copy(by: Any, piece: str) -> Generator[pa.Table]:
        if by is slow:
            has_begun.set()
            assert sent.wait(HANG_S)
            assert cancelled.wait(HANG_S)
            raise psycopg.errors.QueryCanceled
        assert has_begun.wait(HANG_S)
        raise ValueError("first")
        yield

    has_begun = threading.Event()
    slow: Any = SimpleNamespace(cancel_safe=cancel)
    first: Any = SimpleNamespace(cancel_safe=lambda timeout: None)

    @contextlib.contextmanager
    def join() -> Iterator[Any]:
        yield slow

    with pytest.raises(ValueError, match="first"):
        list(read_pieces(first, join, copy, ["0", "1"], 2))
