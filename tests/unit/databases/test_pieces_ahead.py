"""Readers that are faster than the writer of the files wait for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from scoreline.tasks.databases.source.readers import read_pieces

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
