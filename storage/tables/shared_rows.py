"""Hands the decoded rows of a wide row group from the process that plans a job to all processes of its worker.

To score a few rows of a wide row group, a planner has to fetch all of it. It therefore decodes all rows, and writes
them to a file that the processes of its worker can read. As in a spool, the files were opened before the pool was
forked, and have no names. Each process writes only to its own file. What a process reads is not trusted: after each
batch, it looks whether the file still has the rows that it began to read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa

from scoreline.storage.reused_memory import ReusedMemory
from scoreline.storage.tables.column_file import MARK_AT, ColumnFile
from scoreline.storage.tables.expiry import Expiry

UNUSED_S = 120.0
"""Seconds after which unused rows are deleted."""
_HEADER = struct.Struct("<16s16sQQ32s")
"""Name of the rows, a random number, the position and size of the places of the columns, and their digest. A file
without rows begins with zeros, or is empty."""


class SharedRows:
    """The files of all processes of a worker, as one of the processes uses them.

    Parameters
    ----------
    files : sequence of BinaryIO
        A file for each process, opened for reading and writing before the pool was forked.
    own : int
        Number of this process, which is the position of its file.
    unused_s : float
        Seconds after which unused rows of this process are deleted.
    """

    def __init__(self, files: Sequence[BinaryIO], own: int, *, unused_s: float = UNUSED_S) -> None:
        self._files = files
        self._own = files[own]
        self._unused_s = unused_s
        self._expiry = Expiry(self._own, self._left_s, "shared-rows")
        self._planner: int | None = None
        """The thread that plans a job, until it has begun to share rows."""
        self.clear()  # the process that had this number before may have died

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Share the rows that are read within the block."""
        self._planner = threading.get_ident()
        try:
            yield
        finally:
            self._planner = None

    @property
    def is_planning(self) -> bool:
        """Whether this thread plans a job, so that it shares the rows of the next wide row group that it reads.

        A part that lets a plan pass between two batches goes on reading in another thread.
        """
        return self._planner == threading.get_ident()

    def open(self, schema: pa.Schema, memory: ReusedMemory) -> ColumnFile:
        """Withdraw the rows that this process has written, and return a file for other rows.

        Other rows are written over them, because the system takes twice the time to write to new memory. If the thread
        that deletes the earlier rows is late, it deletes the mark as well, and `publish` notices that.
        """
        self._planner = None  # one row group is enough
        self._expiry.stop()
        mark = os.urandom(16)
        os.pwrite(self._own.fileno(), bytes(MARK_AT) + mark, 0)  # the earlier rows have neither name nor mark
        return ColumnFile(self._own, schema, memory, begin=_HEADER.size, mark=mark)

    def publish(self, name: bytes, columns: ColumnFile) -> None:
        """Let all processes find the rows of `open`, until they are unused for some time. Raise `OSError` if it fails.

        Columns that are not in the file cannot be shared.
        """
        if columns.arrays:
            return
        places = json.dumps(columns.places).encode()
        position = columns.write(places)
        os.ftruncate(self._own.fileno(), position + len(places))  # delete what is left of more rows
        columns.check_mark()
        header = _HEADER.pack(name, columns.mark, position, len(places), hashlib.sha256(places).digest())
        os.pwrite(self._own.fileno(), header, 0)
        self._expiry.begin()

    def find(self, name: bytes, schema: pa.Schema, memory: ReusedMemory) -> ColumnFile | None:
        """Return the rows with this name if some process has written them; otherwise None.

        A planner always reads from the store.
        """
        if self.is_planning:
            return None
        for file in self._files:
            with contextlib.suppress(OSError):
                header = os.pread(file.fileno(), _HEADER.size, 0)
                if len(header) < _HEADER.size or not header.startswith(name):
                    continue
                _, mark, position, size, digest = _HEADER.unpack(header)
                places = os.pread(file.fileno(), min(size, os.fstat(file.fileno()).st_size), position)
                if hashlib.sha256(places).digest() == digest:
                    found = ColumnFile(file, schema, memory, mark=mark)
                    found.places = {column: (values, valid) for column, (values, valid) in json.loads(places).items()}
                    return found
        return None

    def clear(self) -> None:
        """Delete the rows that this process has written."""
        self._expiry.empty()

    def _left_s(self) -> float:
        """Return for how many seconds the rows are kept if they stay unused."""
        try:
            left_s = os.fstat(self._own.fileno()).st_mtime + self._unused_s - time.time()
        except (OSError, ValueError):  # a closed file raises ValueError
            return 0.0
        return min(left_s, self._unused_s)  # the clock may have been set


def name_of(uri: str, etag: str, group: int, schema: pa.Schema) -> bytes:
    """Return the digest by which the rows of a row group are found."""
    columns = [(name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)]
    return hashlib.blake2b(repr((uri, etag, group, columns)).encode("utf-8", "replace"), digest_size=16).digest()
