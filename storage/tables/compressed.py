"""Decompress objects while reading them.

If an object contains several compressed streams in a row, they are read as one. If other bytes follow a compressed
stream, an error is raised.

A survey notes seek points, at which decompression can begin (see `seek_points`). Objects in zstd have no seek points,
and objects in bz2 and xz have seek points only between streams. A process that reads several parts in order, without
seek points between them, continues where the previous part ended.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned, SeekPoint, Span
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.read_ahead import ReadAheadFile
from scoreline.storage.tables.seek_points import CarefulGzip, GzipReader, SeekPoints

BUFFER_BYTES = 4 << 20
_HEAD_BYTES = 256 << 10
_CHUNK_BYTES = 256 << 10
_SKIP_BYTES = 1 << 20
_MAX_KEPT = 2
"""Number of objects that a process keeps open between parts. Each open object takes a buffer, up to 8 MiB for zstd, and
usually 8 MiB for xz."""
_XZ_BYTES = 96 << 20
"""Maximum memory to decompress xz, whose header says how much is needed. The highest level, ``xz -9``, needs 65 MiB."""
_PADDING_BYTES = 4
"""The padding after a stream of xz is a multiple of this size. Otherwise, the object was cut."""
_COMPRESSED_SHARE = 0.2
"""Assumed number of compressed bytes per byte of text, until some text is read. It is a low estimate, because bytes
that are fetched beyond the end of a span may be of no use."""
_WORTH_SEEKING = 1 << 20
"""A seek point is used only if it is more than this number of bytes ahead of the position in the open text. Otherwise,
the open text is decompressed further."""


class DecompressedFile:
    """Reads a compressed object from its beginning, or from a seek point that a survey has noted.

    Parameters
    ----------
    compression : str
        ``gzip``, ``bz2``, ``xz`` or ``zstd``.
    point : SeekPoint, optional
        Where to begin.
    points : SeekPoints, optional
        Collects seek points while the whole object is read.
    buffer_bytes : int
        Number of bytes of a request. Prefetched pieces have another size (see `read_ahead`).
    """

    def __init__(
        self,
        source: Pinned,
        compression: str,
        *,
        point: SeekPoint | None = None,
        points: SeekPoints | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._source = source
        self._buffer_bytes = buffer_bytes
        self._begun = (0, 0) if point is None else (point.position, point.offset)
        self._share = self._begun[1] / self._begun[0] if self._begun[0] else _COMPRESSED_SHARE
        self._needed_until: int | None = 0
        """Position up to which the text is needed; None if all of it is needed."""
        self._asked_until = 0
        """Position in the object up to which bytes are prefetched."""
        self._file = self._open(compression, point, points)
        self.position = self._begun[0]
        """Position in the text, in bytes."""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, or empty bytes at the end.

        Raises
        ------
        UnreadableInput
            The object is damaged or truncated, or other bytes follow the compressed data.
        """
        if self._asked_until <= self._raw.tell():
            self._fetch_ahead()
        try:
            data: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise UnreadableInput(
                f"{self._source.uri} cannot be decompressed: {error} (after {self.position:,} decompressed bytes)"
            ) from error
        self.position += len(data)
        return data

    def read_ahead(self, stop: int | None = None) -> None:
        """Prefetch pieces of the object in parallel, for the decompressed text up to `stop`.

        The number of compressed bytes is estimated from the bytes read so far. By default, the whole object is
        prefetched.
        """
        self._needed_until = stop

    def stop(self) -> None:
        """Stop prefetching, and discard the prefetched bytes. The file can still be read."""
        self._needed_until, self._asked_until = self.position, 0
        self._raw.stop()

    def close(self) -> None:
        """Fetch nothing more."""
        self._raw.close()

    def _fetch_ahead(self) -> None:
        read, fetched = self._buffer.tell(), self._raw.tell()
        self._asked_until = self._source.size
        if self._needed_until is not None:
            position, offset = self._begun
            if self.position > position:
                self._share = (read - offset) / (self.position - position)
            self._asked_until = read + int((self._needed_until - self.position) * self._share)
        self._raw.read_ahead(fetched, self._asked_until)

    def skip_to(self, position: int) -> None:
        """Read and discard the text before a position. Stop at the end of the text."""
        while self.position < position and self.read(min(position - self.position, _SKIP_BYTES)):
            pass

    def _open(self, compression: str, point: SeekPoint | None, points: SeekPoints | None) -> Any:
        match compression:
            case "gzip" if point is not None:
                return GzipReader(self._buffered(point.offset), point)
            case "gzip" if points is not None:
                return CarefulGzip(self._buffered, points)
            case "gzip":
                return gzip.GzipFile(fileobj=self._buffered())
            case "bz2":
                return _Streams(self._buffered(point.offset if point else 0), bz2.BZ2Decompressor, points)
            case "xz":
                begin = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _XZ_BYTES)
                return _Streams(self._buffered(point.offset if point else 0), begin, points, padding=b"\0")
            case _:
                return pa.CompressedInputStream(pa.PythonFile(self._buffered(), "r"), compression)

    def _buffered(self, offset: int = 0) -> io.BufferedReader:
        self._raw = ReadAheadFile(self._source)
        self._raw.seek(offset)
        self._asked_until = 0
        self._buffer: io.BufferedReader = io.BufferedReader(self._raw, self._buffer_bytes)
        return self._buffer


def open_head(source: Pinned, compression: str) -> DecompressedFile:
    """Open a compressed object to read only its first bytes."""
    return DecompressedFile(source, compression, buffer_bytes=_HEAD_BYTES)


class TextFiles:
    """Opens texts.

    A compressed text stays open between parts, because the next part may begin where the last part ended.

    This class uses no locks, because a signal handler may raise an error at any moment.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], DecompressedFile] = {}

    @contextlib.contextmanager
    def to_survey(
        self, source: Pinned, compression: str | None, start: int, points: SeekPoints
    ) -> Iterator[RangedFile | DecompressedFile]:
        """Open a text to read all of it from `start`, and collect seek points."""
        if compression is None:
            with _open_ahead(source, start, source.size) as plain:
                yield plain
            return
        file = DecompressedFile(source, compression, points=points)
        with contextlib.closing(file):
            file.read_ahead()
            file.skip_to(start)
            yield file

    @contextlib.contextmanager
    def to_read(self, source: Pinned, compression: str | None, span: Span) -> Iterator[RangedFile | DecompressedFile]:
        """Open a text to read a span of it."""
        if compression is None:
            with _open_ahead(source, span.start, span.stop) as plain:
                yield plain
            return
        name = (source.uri, source.etag)
        file = self._kept.pop(name, None)
        if file is None or begins_at_point(file.position, span.start, span.point):
            file = DecompressedFile(source, compression, point=span.point)
        file.read_ahead(span.stop)
        file.skip_to(span.start)
        try:
            yield file
        except GeneratorExit:  # the caller needs only the first rows
            file.stop()
        self._kept[name] = file
        while len(self._kept) > _MAX_KEPT:
            self._kept.pop(next(iter(self._kept)), None)


def begins_at_point(position: int, start: int, point: SeekPoint | None) -> bool:
    """Return whether a process that has read a text up to `position` opens it again to read on from `start`.

    Parameters
    ----------
    point : SeekPoint, optional
        The last seek point before `start`.
    """
    place = point.position if point is not None else 0
    return position > start or position + _WORTH_SEEKING < place


def _open_ahead(source: Pinned, start: int, stop: int) -> ReadAheadFile:
    file = ReadAheadFile(source)
    file.seek(start)
    file.read_ahead(start, stop)
    return file


def open_plain(source: Pinned, start: int = 0) -> RangedFile:
    """Open a text that is not compressed."""
    file = RangedFile(source.store, source.key, source.size, source.etag)
    file.seek(start)
    return file


class _Streams:
    """Reads several bz2 or xz streams in a row, as some parallel compressors write them.

    The readers in the standard library ignore bytes after a stream if they are not a valid stream. If a later stream
    were damaged, the rows of this stream and all following rows would be lost silently.

    Parameters
    ----------
    begin : callable
        Returns a decompressor for one stream.
    padding : bytes
        A byte that may be repeated after a stream; empty if there is no such byte.
    """

    def __init__(
        self,
        file: io.BufferedReader,
        begin: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
        points: SeekPoints | None = None,
        padding: bytes = b"",
    ) -> None:
        self._file = file
        self._begin = begin
        self._points = points
        self._padding = padding
        self._position = 0
        self._decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            decoder, data = self._decoder, b""
            if decoder is None or decoder.eof:
                data = self._next_stream(decoder.unused_data if decoder else b"")
                if not data:
                    return b""
                decoder = self._decoder = self._begin()
                if self._points is not None and self._points.is_due(self._position):
                    self._points.add(SeekPoint(position=self._position, offset=self._file.tell() - len(data)))
            elif decoder.needs_input and not (data := self._file.read(_CHUNK_BYTES)):
                raise EOFError("it ends inside a compressed stream")
            if decompressed := decoder.decompress(data, size):
                self._position += len(decompressed)
                return decompressed

    def _next_stream(self, unused: bytes) -> bytes:
        """Return the first bytes of the next stream; empty bytes at the end of the object."""
        data = unused or self._file.read(_CHUNK_BYTES)
        if self._decoder is None or not self._padding:
            return data
        padding = 0
        while data:
            rest = data.lstrip(self._padding)
            padding += len(data) - len(rest)
            if rest:
                break
            data = self._file.read(_CHUNK_BYTES)
        if padding % _PADDING_BYTES:
            raise EOFError(f"the padding after a stream has {padding:,} bytes, which is not a multiple of 4")
        return data.lstrip(self._padding)
