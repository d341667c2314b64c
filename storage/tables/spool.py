"""Hands small objects from the process that plans a job to all processes of its worker, through files without names.

The main process opens a file for each process of its pool before it forks the pool. Only these processes can read the
files, and the system deletes the files when the last of the processes ends, even if it is killed. Each process writes
objects only to its own file, and reads the files of all. In each file that it reads, it notes the time.

An object is written as its bytes, or as its decoded rows. The rows of several objects make up a block, which is read at
once.

What a process reads is not trusted: the other process may have died while it was writing, or may already be writing the
objects of another job. The index of a file, each object and each block have a digest, and what does not match it is not
used.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import pyarrow as pa

from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.expiry import Expiry

log = logging.getLogger(__name__)

UNUSED_S = 120.0
"""Seconds after which unused objects are deleted. This is longer than any part of small objects should take, because a
process uses the objects of a part only when the part begins."""
_USED = struct.Struct("<d")
"""Time at which a process used an object of the file last, by `time.monotonic`. A file begins with it."""
_HEADER = struct.Struct("<QQ32s")
"""Offset of the index, number of objects, and digest of the index. Zeros if there is no index. The header follows
`_USED`, and the objects begin at `_DATA_AT`."""
_HEADER_AT = _USED.size
_DATA_AT = 64
_RECORD = struct.Struct("<16sQQII32s")
"""Name (see `_name`), offset, number of rows, place, size, and digest of an object. The place is `_AS_BYTES`, or the
number of the object's first row in a block; offset, size and digest are then those of the block. The records of an
index are sorted, so that a process finds an object without reading all of them."""
RECORD_BYTES = _RECORD.size
"""Space that an object takes besides its bytes."""
_AS_BYTES = 0xFFFF_FFFF
_INDEX_BYTES = 16 << 20
"""Maximum size of an index, because each process keeps the index of each file in memory. This is enough for 230,000
objects."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An object in a spool."""

    blocks: Blocks
    file: BinaryIO
    offset: int
    rows: int
    place: int
    size: int
    digest: bytes

    def joined_with(self, other: Spooled) -> Spooled | None:
        """Return this object and another one as a single object, if the rows of the other follow in the same block."""
        follows = self.place != _AS_BYTES and other.place == self.place + self.rows
        if not follows or (other.file, other.offset, other.digest) != (self.file, self.offset, self.digest):
            return None
        return replace(self, rows=self.rows + other.rows)

    def read(self) -> bytes | pa.RecordBatch | None:
        """Return the bytes of the object, or its rows. Return None if the spool lost them, or if they are damaged."""
        if self.place != _AS_BYTES:
            block = self.blocks.read(self.file, self.offset, self.size, self.digest)
            return None if block is None else block.slice(self.place, self.rows)
        data = _read(self.file, self.size, self.offset)
        return data if hashlib.sha256(data).digest() == self.digest else None


class Blocks:
    """Reads blocks of rows. The last block stays in memory, because objects are read in the order of the input."""

    def __init__(self) -> None:
        self._last: tuple[bytes, pa.RecordBatch | None] = (b"", None)

    def read(self, file: BinaryIO, offset: int, size: int, digest: bytes) -> pa.RecordBatch | None:
        """Return the rows of a block; None if the spool lost them, or if they are damaged."""
        known, block = self._last  # a single tuple, because several threads may read blocks
        if known == digest:
            return block
        data = _read(file, size, offset)
        if hashlib.sha256(data).digest() != digest:
            return None
        with pa.ipc.open_stream(data) as reader:
            block = reader.read_next_batch()
        self._last = digest, block
        return block

    def release(self) -> None:
        """Release the memory of the last block."""
        self._last = (b"", None)


class Spool:
    """The files of all processes of a worker, as one of the processes uses them.

    Parameters
    ----------
    files : sequence of BinaryIO
        A file for each process, opened for reading and writing before the pool was forked.
    own : int
        Number of this process, which is the position of its file.
    limit_bytes : int
        Maximum size of the file of this process.
    unused_s : float
        Seconds after which unused objects of this process are deleted.
    """

    def __init__(self, files: Sequence[BinaryIO], own: int, *, limit_bytes: int, unused_s: float = UNUSED_S) -> None:
        self._files = files
        self._own = files[own]
        self._limit_bytes = limit_bytes
        self._unused_s = unused_s
        self._reserved = self._end = _DATA_AT
        self._expected = _DATA_AT
        """The space that all objects take that will probably be written."""
        self._records: list[bytes] | None = None
        """The objects that were written so far; None if this process writes none at the moment."""
        self._indexes: dict[BinaryIO, tuple[bytes, bytes]] = {}
        """The header and the index of each file that was read last."""
        self._blocks = Blocks()
        self._expiry = Expiry(self._own, self._left_s, "spool")
        self.clear()  # the process that had this number before may have died

    def begin(self, expected_bytes: int = 0) -> None:
        """Delete the objects that this process has written, and begin to write others.

        Parameters
        ----------
        expected_bytes : int
            Total size of the objects. Rows that are larger than their object are not written in place of later objects.
        """
        self.clear()
        self._records, self._expected = [], _DATA_AT + expected_bytes

    def reserve(self, size: int) -> bool:
        """Reserve space for an object of so many bytes. Return whether there was enough."""
        size += _RECORD.size
        if self._records is None or self._reserved + size > self._limit_bytes:
            return False
        if (len(self._records) + 1) * _RECORD.size > _INDEX_BYTES:
            return False
        self._reserved += size
        return True

    def add(self, source: Pinned, data: bytes, rows: int) -> None:
        """Write an object of so many rows. Call `reserve` first. If the disk is full, no objects are written."""
        records = self._records
        if records is None:
            return
        digest = hashlib.sha256(data).digest()
        if self._write(data, self._end):
            records.append(_RECORD.pack(_name(source), self._end, rows, _AS_BYTES, len(data), digest))
            self._end += len(data)

    def add_rows(self, objects: Sequence[tuple[Pinned, int]], rows: pa.RecordBatch) -> bool:
        """Write the rows of objects as a block. Call `reserve` for each object first.

        Return False if there is not enough space. The caller then adds the bytes of the objects.

        Parameters
        ----------
        objects : sequence of tuple of Pinned and int
            The objects, and the number of rows of each.
        rows : RecordBatch
            All of their rows, in order.
        """
        records = self._records
        if records is None:
            return True
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
        data = memoryview(sink.getvalue())
        more = len(data) - sum(source.size for source, _ in objects)
        if more > 0 and max(self._reserved, self._expected) + more > self._limit_bytes:
            return False
        self._reserved, self._expected = self._reserved + more, self._expected + more
        digest, place = hashlib.sha256(data).digest(), 0
        if self._write(data, self._end):
            for source, count in objects:
                records.append(_RECORD.pack(_name(source), self._end, count, place, len(data), digest))
                place += count
            self._end += len(data)
        return True

    def publish(self) -> None:
        """Let all processes find the objects that were written, until they are unused for some time."""
        records, self._records = self._records, None
        if not records:
            return
        index = b"".join(sorted(records))
        header = _HEADER.pack(self._end, len(records), hashlib.sha256(index).digest())
        # The header is written last: a file without it has no objects
        if self._write(index, self._end) and self._write(_USED.pack(time.monotonic()) + header, 0):
            self._expiry.begin()

    def find(self, sources: Sequence[tuple[Pinned, int]]) -> list[Spooled | None]:
        """Return each object if some process has written it with so many rows; otherwise None."""
        self._blocks.release()
        indexes = [(file, index) for file in self._files if (index := self._index(file))]
        names = [_name(source) for source, _ in sources] if indexes else []
        found: list[Spooled | None] = [None] * len(sources)
        for file, index in indexes:
            is_used = False
            for number, name in enumerate(names):
                record = _search(index, name)
                if record is not None and record[2] == sources[number][1]:
                    found[number] = Spooled(self._blocks, file, *record[1:])
                    is_used = True
            if is_used:
                with contextlib.suppress(OSError):
                    os.pwrite(file.fileno(), _USED.pack(time.monotonic()), 0)
        return found

    def clear(self) -> None:
        """Delete the objects that this process has written."""
        self._records, self._reserved, self._end = None, _DATA_AT, _DATA_AT
        self._expiry.empty()

    def _index(self, file: BinaryIO) -> bytes:
        """Return the index of a file; empty if it has none, or if it is damaged."""
        header = _read(file, _HEADER.size, _HEADER_AT)
        known, index = self._indexes.get(file, (b"", b""))
        if header == known:
            return index
        index = b""
        if len(header) == _HEADER.size:
            offset, count, digest = _HEADER.unpack(header)
            size = count * _RECORD.size
            if 0 < size <= os.fstat(file.fileno()).st_size - offset:  # otherwise the header is damaged
                index = _read(file, size, offset)
                index = index if hashlib.sha256(index).digest() == digest else b""
        self._indexes[file] = header, index
        return index

    def _write(self, data: bytes | memoryview, offset: int) -> bool:
        """Write bytes at a position. If this fails, delete all objects, and return False."""
        try:
            while data:
                written = os.pwrite(self._own.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            log.warning("spool.unwritable", extra={"error": str(error)})
            self.clear()
            return False
        return True

    def _left_s(self) -> float:
        """Return for how many seconds the objects are kept if they stay unused; 0 if the time of use is damaged."""
        used = _read(self._own, _USED.size, 0)
        left_s = _USED.unpack(used)[0] + self._unused_s - time.monotonic() if len(used) == _USED.size else 0.0
        return left_s if left_s <= self._unused_s else 0.0


def _read(file: BinaryIO, size: int, offset: int) -> bytes:
    """Return bytes of a file. Return fewer at its end, and none if it is closed or the disk cannot be read."""
    try:
        return os.pread(file.fileno(), size, offset)
    except (OSError, ValueError):  # a closed file raises ValueError
        return b""


def _search(index: bytes, name: bytes) -> tuple[bytes, int, int, int, int, bytes] | None:
    """Return the record of an object; None if the index has none."""

    def name_at(place: int) -> bytes:
        return index[place * _RECORD.size : place * _RECORD.size + len(name)]

    count = len(index) // _RECORD.size
    place = bisect_left(range(count), name, key=name_at)
    return _RECORD.unpack_from(index, place * _RECORD.size) if place < count and name_at(place) == name else None


def _name(source: Pinned) -> bytes:
    """Return the digest by which an object with its ETag is found."""
    return hashlib.blake2b(f"{source.uri}\0{source.etag}".encode(), digest_size=16).digest()
