"""Remembers the entries of the job index, so that a page of jobs that was read before costs only listings."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, StoredObject

MOST_READ = 2_000
"""Maximum number of entries that one search reads."""
MOST_ENTRIES = 5_000
"""Maximum number of entries that are remembered, of about 1 KB each."""


class RememberedEntries:
    """A store that reads an entry of the job index again only if a listing shows another ETag.

    It offers what `JobListing` needs of an `ObjectStore`, and refuses everything else.

    Parameters
    ----------
    store : ObjectStore
        The main bucket.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.bucket = store.bucket
        self.rewrite_after_s = store.rewrite_after_s
        self._store = store
        self._guard = threading.Lock()
        self._listed: OrderedDict[str, str] = OrderedDict()
        self._entries: OrderedDict[str, StoredObject] = OrderedDict()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix, and note the ETags of entries."""
        for info in self._store.list(prefix):
            if info.key.startswith(keys.JOBS_INDEX):
                with self._guard:
                    self._listed[info.key] = info.etag
                    self._listed.move_to_end(info.key)
                    while len(self._listed) > 4 * MOST_ENTRIES:
                        self._listed.popitem(last=False)
            yield info

    def get(self, key: str, **options: Any) -> StoredObject:
        """Read an object; an entry that is known, and unchanged in the last listing, is not read again."""
        with self._guard:
            known, listed = self._entries.get(key), self._listed.get(key)
        if known is not None and known.info.etag == listed and not options:
            return known
        found = self._store.get(key, **options)
        if key.startswith(keys.JOBS_INDEX) and not options:
            with self._guard:
                self._entries[key] = found
                self._entries.move_to_end(key)
                while len(self._entries) > MOST_ENTRIES:
                    self._entries.popitem(last=False)
        return found

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders below a prefix."""
        return self._store.folders(prefix)

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object."""
        return self._store.head(key)

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        """Write an object; `JobListing` marks a complete index this way."""
        return self._store.put(key, data, **options)

    def uri(self, key: str) -> str:
        """Return the URI of a key."""
        return self._store.uri(key)


class EnoughRead(Exception):
    """Raised when a search has read `MOST_READ` entries, and would read more."""


class Search:
    """The entries as one search sees them, which reads a limited number of them.

    Parameters
    ----------
    entries : RememberedEntries
        The entries that all searches share.
    """

    def __init__(self, entries: RememberedEntries) -> None:
        self._entries = entries
        self._left = MOST_READ
        self._guard = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entries, name)

    def get(self, key: str, **options: Any) -> StoredObject:
        """Read an object (see `RememberedEntries.get`); raises `EnoughRead`."""
        with self._guard:
            self._left -= 1
            if self._left < 0:
                raise EnoughRead
        return self._entries.get(key, **options)
