"""Remembers the entries of the job index, so that a page of jobs that was read before costs only listings.

The outcome of a small job of records, which says what its entry does not (see `entry_in`), is remembered, too. It
changes only together with the entry, as far as a listing reads it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, StoredObject
from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.job.documents import Outcome
from scoreline.tasks.job.index_entry import entry_in

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
        """ETags of entries, by key and by job id."""
        self._known: OrderedDict[str, tuple[str, StoredObject]] = OrderedDict()
        """Entries and outcomes by key, with the ETag that the entry had."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix, and note the ETags of entries."""
        for info in self._store.list(prefix):
            if info.key.startswith(keys.JOBS_INDEX):
                with self._guard:
                    for name in (info.key, info.key.rpartition("~")[2]):
                        self._listed[name] = info.etag
                        self._listed.move_to_end(name)
                    while len(self._listed) > 8 * MOST_ENTRIES:
                        self._listed.popitem(last=False)
            yield info

    def get(self, key: str, **options: Any) -> StoredObject:
        """Read an object; an entry that is known, and unchanged in the last listing, is not read again."""
        is_entry = key.startswith(keys.JOBS_INDEX)
        name = key if is_entry else _ended_job(key)
        with self._guard:
            (etag, known), listed = self._known.get(key, ("", None)), self._listed.get(name)
        if known is not None and etag == listed and not options:
            return known
        found = self._store.get(key, **options)
        kept = found if is_entry else _without_results(found) if name else None
        if kept is not None and listed is not None and not options:
            with self._guard:
                self._known[key] = (found.info.etag if is_entry else listed, kept)
                self._known.move_to_end(key)
                while len(self._known) > MOST_ENTRIES:
                    self._known.popitem(last=False)
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


def _ended_job(key: str) -> str:
    """Return the id of the job whose outcome has this key; empty for all other keys."""
    match key.split("/"):
        case ["jobs", job_id, "outcome.json"]:
            return job_id
        case _:
            return ""


def _without_results(found: StoredObject) -> StoredObject | None:
    """Return an outcome without what a listing does not read; None if it does not say what an entry would."""
    try:
        outcome = Outcome.from_json(found.data)
        if entry_in(outcome) is None:
            return None
    except (*MALFORMED, InvalidRequest):
        return None
    return replace(found, data=replace(outcome, results="").to_json())


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
