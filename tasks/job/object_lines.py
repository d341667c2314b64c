"""Reads an object of text line by line, with one piece of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.objects.writer import PART_BYTES


def lines_of(store: ObjectStore, info: ObjectInfo, tee: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """Yield the lines of an object, each with the line break at its end.

    Parameters
    ----------
    tee : callable, optional
        Receives every piece that is read, in order.

    Raises
    ------
    PreconditionFailed, ObjectNotFound
        The object was replaced or deleted meanwhile.
    """
    rest = b""
    for start in range(0, info.size, PART_BYTES):
        piece = (start, min(start + PART_BYTES, info.size))
        data = store.get(info.key, byte_range=piece, if_match=info.etag).data
        if tee is not None:
            tee(data)
        *found, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in found)
    if rest:
        yield rest
