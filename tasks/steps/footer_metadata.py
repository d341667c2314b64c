"""Reads the metadata of the footers of Parquet objects with one ranged request each."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.objects.base import ObjectStore

_TAIL = struct.Struct("<I4s")
"""The end of an object: the length of the footer, and the magic number."""
_FIRST_BYTES = 128 << 10
"""Number of bytes that are read of the first object. The footer of a part with 512 small objects, which names each of
them, takes about 100 kB."""
_LEAST_BYTES = 16 << 10
_MAX_BYTES = 64 << 20
"""Maximum size of a footer. A damaged object must not fill the memory."""


class FooterReader:
    """Reads the footers of similar objects. It expects no footer to be much longer than those before.

    Parameters
    ----------
    store : ObjectStore
        The store of the objects.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._longest = 0

    def read(self, key: str, size: int) -> dict[str, str]:
        """Return the key-value metadata of a footer.

        Parameters
        ----------
        size : int
            Size of the object in bytes.

        Raises
        ------
        DocumentCorrupt
            The object is not Parquet.
        """
        return self.read_with_metadata(key, size)[0]

    def read_with_metadata(self, key: str, size: int) -> tuple[dict[str, str], Mapping[str, str]]:
        """Return the key-value metadata of a footer, and that of the object (see `read`)."""
        longest = self._longest
        tail, metadata_of_object = self._read_tail(
            key, size, max(_LEAST_BYTES, longest + longest // 4) if longest else _FIRST_BYTES
        )
        if len(tail) < _TAIL.size or tail[-4:] != b"PAR1":
            raise DocumentCorrupt(f"{self._store.uri(key)} does not end as Parquet does: score its rows again")
        length = _TAIL.unpack(tail[-_TAIL.size :])[0] + _TAIL.size
        if length > min(size, _MAX_BYTES):
            raise DocumentCorrupt(f"{self._store.uri(key)} has a footer of {length} bytes: score its rows again")
        if length > len(tail):
            tail, _ = self._read_tail(key, size, length)
        self._longest = max(self._longest, length)
        try:
            # Arrow needs only the footer, but expects an object that begins with the magic number
            metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-length:])).metadata or {}
            found = {name.decode(): value.decode() for name, value in metadata.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DocumentCorrupt(f"{self._store.uri(key)} has a damaged footer: {error}") from None
        return found, metadata_of_object

    def _read_tail(self, key: str, size: int, length: int) -> tuple[bytes, Mapping[str, str]]:
        got = self._store.get(key, byte_range=(max(0, size - length), size))
        return got.data, got.info.metadata
