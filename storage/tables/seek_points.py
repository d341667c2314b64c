"""Seek points: positions in a compressed object at which decompression can begin.

A worker that scores a part need not decompress everything before it.

A survey decompresses the whole object anyway, and adds a seek point about every `SPACING` bytes of text. A seek point
is the start of a compressed stream, or the start of a deflate block inside a gzip stream. A seek point inside a stream
includes the 32 KiB of text before it.

zlib does not report where blocks start. However, the header of a block produces no output. Therefore, if a few bytes of
input produce no output, a block probably starts within these bytes. The reader tries to decode from each bit. From a
wrong bit, decoding fails or gives another text. Existing libraries were measured. rapidgzip takes 190 MB, and ends the
process if a file is not closed. indexed_gzip takes 280 MB, and almost three times as long as zlib.

zlib-ng takes 60% of the time of zlib. isal takes a third of the time of zlib, but its decoders cannot be copied, and
the search for a block needs copies. If zlib-ng finds a fault, the object is read again with the standard library.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from zlib_ng import zlib_ng

from scoreline.storage.tables.base import SeekPoint

SPACING = 16 << 20
"""Minimum number of bytes of text between two seek points. Decompressing this many bytes takes 0.1 s."""
MAX_POINTS = 256
"""Maximum number of seek points in an object. If there are more seek points, every second seek point is dropped, and
`SPACING` is doubled for the object."""

_ZlibNgError: type[Exception] = zlib_ng.error  # type: ignore[assignment]  # the stub says it is an instance
_WINDOW = 32 << 10
_STEP = 16
"""Number of compressed bytes to decompress before checking whether they gave output. A step without output indicates
the header of a block, which has at least 40 bytes."""
_MAX_SEARCH = 512 << 10
"""Maximum number of compressed bytes in which the start of a block is searched. A block usually has 20 kB."""
_PROOF_IN, _PROOF_OUT = 4 << 10, 64 << 10
"""Number of compressed bytes to decode to confirm the start of a block, and maximum number of decoded bytes to
compare."""
_MIN_PROOF = 1 << 10
_CHUNK = 64 << 10
_TRAILER = 8
"""Number of bytes after the last block of a gzip stream: checksum and length."""


class SeekPoints:
    """Collects seek points while an object is decompressed. Their number is limited."""

    def __init__(self, spacing: int = SPACING) -> None:
        self.found: list[SeekPoint] = []
        self._spacing = spacing

    def is_due(self, position: int) -> bool:
        """Return whether a position of the text is far enough from the last seek point."""
        return position - (self.found[-1].position if self.found else 0) >= self._spacing

    def add(self, point: SeekPoint) -> None:
        """Add a seek point."""
        self.found.append(point)
        if len(self.found) > MAX_POINTS:
            self.found = self.found[1::2]
            self._spacing *= 2


class Readable(Protocol):
    """A source of compressed bytes for a decompressor."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, or empty bytes at the end."""
        ...


class GzipReader:
    """Decompresses gzip from the beginning or from a seek point, and collects further seek points.

    The checksum of a stream is verified only if the stream is read from its beginning.

    Parameters
    ----------
    file : file
        The object, at the offset of `point` or at its beginning.
    point : SeekPoint, optional
        Where to begin.
    points : SeekPoints, optional
        Collects seek points.
    """

    def __init__(self, file: Readable, point: SeekPoint | None = None, points: SeekPoints | None = None) -> None:
        self._file = file
        self._points = points
        self._position, self._offset = (point.position, point.offset) if point else (0, 0)
        self._buffer = b""
        self._window = b""
        self._trailer = 0
        """Number of bytes to skip after the current stream, because the decoder does not read the trailer of the
        stream."""
        self._drop = 0
        """Number of decompressed bytes to drop, because they come before the wanted position."""
        self._searched = 0
        self._decoder: Any = None
        if point is not None and point.window:
            self._begin_inside(point)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, or empty bytes at the end.

        Raises
        ------
        zlib.error, EOFError
            The object is damaged or cut short. The message is not for users.
        """
        while self._decoder is not None or self._next_stream():
            out = self._search(size) if self._is_searching() else self._decompress(_CHUNK, size)
            if self._decoder.eof:
                self._decoder = None
            if out:
                self._position += len(out)
                if self._points is not None:
                    self._window = (self._window + out[-_WINDOW:])[-_WINDOW:]
                return out
        return b""

    def _begin_inside(self, point: SeekPoint) -> None:
        first = self._file.read(1)
        if not first:
            raise EOFError("it ends before a place in it")
        self._decoder, self._buffer, self._drop = _decoder_at(zlib.decompress(point.window), first[0], point.bits)
        self._offset += 1 - len(self._buffer)  # the buffer begins with additional bytes
        self._trailer = _TRAILER

    def _next_stream(self) -> bool:
        """Begin with the next compressed stream. Return False at the end of the object."""
        while self._trailer and self._fill(1):
            self._take(min(self._trailer, len(self._buffer)), trailer=True)
        while self._fill(1) and self._buffer[0] == 0:  # zeros may follow a stream
            self._take(len(self._buffer) - len(self._buffer.lstrip(b"\0")))
        if not self._buffer:
            return False
        if self._points is not None and self._points.is_due(self._position):
            self._points.add(SeekPoint(position=self._position, offset=self._offset))
        self._decoder = zlib_ng.decompressobj(wbits=31)
        return True

    def _take(self, count: int, *, trailer: bool = False) -> None:
        self._buffer = self._buffer[count:]
        self._offset += count
        self._trailer -= count if trailer else 0

    def _fill(self, size: int) -> bool:
        """Fill the buffer with at least `size` bytes. Return False if the object has fewer bytes left."""
        while len(self._buffer) < size and (more := self._file.read(_CHUNK)):
            self._buffer += more
        return len(self._buffer) >= size

    def _decompress(self, count: int, size: int) -> bytes:
        """Decompress up to `count` bytes of the buffer, to up to `size` bytes."""
        self._fill(1)
        given = self._buffer[:count]
        try:
            out: bytes = self._decoder.decompress(given, max(size, 1))
        except _ZlibNgError as error:
            raise zlib.error(*error.args) from error
        left = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        self._take(len(given) - len(left))
        if not (out or given or self._decoder.eof):
            raise EOFError("it ends inside a compressed stream")
        if self._drop:
            dropped = min(self._drop, len(out))
            self._drop, out = self._drop - dropped, out[dropped:]
        return out

    def _is_searching(self) -> bool:
        points = self._points
        if points is None or not points.is_due(self._position):
            self._searched = 0
            return False
        return self._searched < _MAX_SEARCH

    def _search(self, size: int) -> bytes:
        """Decompress in small steps, until a seek point is found or there are `size` bytes."""
        pieces: list[bytes] = []
        length, quiet, last = 0, False, b""
        while length < size and self._searched < _MAX_SEARCH and not self._decoder.eof:
            self._fill(_STEP + _PROOF_IN)
            given, offset = self._buffer[:_STEP], self._offset
            out = self._decompress(_STEP, size - length)
            passed = given[: self._offset - offset]
            self._searched += len(passed)
            if not out and not quiet and pieces and not self._decoder.eof:
                text = (self._window + b"".join(pieces))[-_WINDOW:]
                if self._place(last + passed, text, self._position + length):
                    break
            quiet, last = not out, passed
            if out:
                pieces.append(out)
                length += len(out)
        return b"".join(pieces)

    def _place(self, passed: bytes, window: bytes, position: int) -> bool:
        """Search the last bytes for the bit at which a block starts. Return whether the search succeeded."""
        ahead = self._buffer[:_PROOF_IN]
        try:
            proof = self._decoder.copy().decompress(ahead, _PROOF_OUT)
        except _ZlibNgError:  # the object is damaged there; reading on reports the damage
            return False
        if len(proof) < _MIN_PROOF or len(window) < _WINDOW:
            return False
        data = passed + ahead
        for bit in range(8 * len(passed)):
            number, bits = divmod(bit, 8)
            if _may_start(data[number : number + 3], bits) and _proves(data[number:], bits, window, proof):
                offset = self._offset - len(passed) + number
                assert self._points is not None
                self._points.add(SeekPoint(position=position, offset=offset, bits=bits, window=zlib.compress(window)))
                return True
        return False


def _may_start(data: bytes, bits: int) -> bool:
    """Return whether a deflate block of type 2, which has its own Huffman codes, may start at a bit."""
    header = int.from_bytes(data, "little") >> bits
    return header >> 1 & 3 == 2 and header >> 3 & 31 <= 29 and header >> 8 & 31 <= 29


def _proves(data: bytes, bits: int, window: bytes, proof: bytes) -> bool:
    """Return whether decoding from this bit of the first byte gives the expected text `proof`."""
    decoder, first, drop = _decoder_at(window, data[0], bits)
    try:
        out = decoder.decompress(first + data[1:], len(proof) + drop)[drop:]
    except _ZlibNgError:
        return False
    return len(out) >= _MIN_PROOF and proof.startswith(out)


def _decoder_at(window: bytes, first: int, bits: int) -> tuple[Any, bytes, int]:
    """Return a decoder for a block that starts inside a byte.

    Returns
    -------
    decoder : zlib decompressor
        The text before the block is its dictionary.
    data : bytes
        Bytes to decompress instead of the first byte: empty blocks that end at this bit, and then the remaining bits of
        the first byte.
    drop : int
        Number of bytes of output to ignore.
    """
    if bits % 2 == 0:  # an empty block with fixed codes takes 10 bits: a header of 3 bits and seven zeros
        prefix, length, count, drop = 0, 0, bits // 2, 0
        dictionary = window
    else:  # a block of 35 bits, which outputs 3 bytes of the dictionary, comes first
        repeat = ((2, 3), (0b1000000, 7), (0b10111, 5), (8191, 13), (0, 7))
        prefix = length = 0
        for value, width in repeat:
            prefix |= value << length
            length += width
        count, drop = (bits - 3) % 8 // 2, 3
        dictionary = window[-3:] + window[:-3]
    for _ in range(count):
        prefix |= 2 << length
        length += 10
    value = prefix | (first >> bits) << length
    data = value.to_bytes((length + 8 - bits) // 8, "little")
    return zlib_ng.decompressobj(wbits=-15, zdict=dictionary), data, drop


class CarefulGzip:
    """Reads gzip with `GzipReader`. After an error, it continues with the standard library's reader.

    Parameters
    ----------
    open_raw : callable
        Opens the object at its beginning.
    points : SeekPoints
        Collects seek points. The collection is emptied after an error.
    """

    def __init__(self, open_raw: Callable[[], io.BufferedReader], points: SeekPoints) -> None:
        self._open_raw = open_raw
        self._points = points
        self._reader: GzipReader | gzip.GzipFile = GzipReader(open_raw(), points=points)
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end. All errors come from the standard library's reader."""
        if isinstance(self._reader, GzipReader):
            pieces, left = [], size
            try:
                while left and (piece := self._reader.read(left)):
                    pieces.append(piece)
                    left -= len(piece)
            except (zlib.error, EOFError):
                self._points.found.clear()
                self._reader = gzip.GzipFile(fileobj=self._open_raw())
                self._reader.seek(self._position)
            else:
                self._position += size - left
                return b"".join(pieces)
        return self._reader.read(size)
