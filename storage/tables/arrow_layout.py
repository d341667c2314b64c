"""Checks that everything in an Arrow IPC file belongs to the messages that its footer lists.

The footer of a file contains the positions of its record batches, counted from the beginning of the file. If two files
are joined into one object, Arrow finds the footer of the second file. Arrow would then read the batches of the first
file if these have the same lengths as those of the second file. The footer is a flatbuffer, as defined by Arrow's
File.fbs.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

_TRAILER = struct.Struct("<i6s")
"""Format of the end of a file: the length of the footer, then the magic bytes."""
_BLOCK = struct.Struct("<qi4xq")
"""Format of a block in the footer: the position of a message, the length of its metadata including the prefix, and the
length of its body."""
_DICTIONARIES, _RECORD_BATCHES = 2, 3
"""Positions of the two lists of blocks among the fields of a footer."""
_ALIGNMENT = 64
"""Messages may be aligned to multiples of this number of bytes, and an end marker may follow the last message."""
_FIRST = 8
"""Position of the first message, which follows the magic bytes and padding."""


def read_footer(file: io.RawIOBase | io.BufferedIOBase, size: int) -> bytes:
    """Return the footer of a file."""
    file.seek(size - _TRAILER.size)
    footer_bytes, _ = _TRAILER.unpack(file.read(_TRAILER.size))
    file.seek(size - _TRAILER.size - footer_bytes)
    footer: bytes = file.read(footer_bytes)
    return footer


def record_batches(footer: bytes) -> list[tuple[int, int, int]]:
    """Return the position of each batch, the length of its metadata with the prefix, and the length of its body."""
    return list(_blocks(footer, _RECORD_BATCHES))


def unlisted_bytes(file: io.RawIOBase | io.BufferedIOBase, size: int) -> int:
    """Return the number of bytes that belong to no message listed in the footer, apart from padding and markers."""
    footer = read_footer(file, size)
    footer_bytes = len(footer)
    footer_start = size - _TRAILER.size - footer_bytes
    unlisted, end = 0, _FIRST
    allowed = footer_bytes + _ALIGNMENT  # the schema message is shorter than the footer, which repeats the schema
    for start, metadata, body in sorted([*_blocks(footer, _DICTIONARIES), *_blocks(footer, _RECORD_BATCHES)]):
        unlisted += _beyond(allowed, start - end)
        end, allowed = max(end, start + metadata + body), _ALIGNMENT
    return unlisted + _beyond(allowed, footer_start - end)


def _beyond(allowed: int, gap: int) -> int:
    return gap if gap > allowed else 0


def _blocks(footer: bytes, field: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of a list in the footer."""
    (table,) = struct.unpack_from("<I", footer, 0)
    (to_vtable,) = struct.unpack_from("<i", footer, table)
    vtable = table - to_vtable
    (vtable_bytes,) = struct.unpack_from("<H", footer, vtable)
    entry = 4 + 2 * field
    offset = struct.unpack_from("<H", footer, vtable + entry)[0] if entry < vtable_bytes else 0
    if not offset:
        return
    (to_vector,) = struct.unpack_from("<I", footer, table + offset)
    vector = table + offset + to_vector
    (count,) = struct.unpack_from("<I", footer, vector)
    for number in range(count):
        yield _BLOCK.unpack_from(footer, vector + 4 + number * _BLOCK.size)
