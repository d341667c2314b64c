"""Directory stores that count: the bytes of requested ranges, or the requests. They are read like buckets."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scoreline.storage.objects.base import ObjectInfo, StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from tests.support.waiting import HANG_S


class RequestedStore(DirectoryStore):
    """Is read with requests only, like a bucket, although its objects are files."""

    path_of = None  # type: ignore[assignment]  # a store without this method does not keep files


class CountingStore(RequestedStore):
    """Counts the bytes of the ranges that are requested."""

    asked = 0

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        if byte_range is not None:
            self.asked += byte_range[1] - byte_range[0]
        return super().get(key, byte_range=byte_range, **options)


class RequestLog(RequestedStore):
    """Notes each request: the operation and the key."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.requests: list[tuple[str, str]] = []
        self._guard = threading.Lock()

    def _note(self, operation: str, key: str) -> None:
        with self._guard:
            self.requests.append((operation, key))

    def get(self, key: str, **options: Any) -> StoredObject:
        self._note("get", key)
        return super().get(key, **options)

    def head(self, key: str) -> ObjectInfo:
        self._note("head", key)
        return super().head(key)

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        self._note("put", key)
        return super().put(key, data, **options)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._note("list", prefix)
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._note("delete", key)
        super().delete(key)


class Together(RequestLog):
    """Lets some requests begin only when all of them have arrived, so that they must be sent side by side.

    Given a group of requests, each is named by its operation and the end of its key.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.groups: list[tuple[set[tuple[str, str]], threading.Barrier]] = []

    def expect(self, *groups: set[tuple[str, str]]) -> None:
        """Expect that the requests of each group are sent side by side. Each of them waits once."""
        self.groups = [(set(group), threading.Barrier(len(group))) for group in groups]

    def _note(self, operation: str, key: str) -> None:
        super()._note(operation, key)
        with self._guard:
            found = [
                (group, barrier, named)
                for group, barrier in self.groups
                for named in group
                if named[0] == operation and key.endswith(named[1])
            ]
            for group, _, named in found[:1]:
                group.remove(named)
        for _, barrier, _ in found[:1]:
            barrier.wait(HANG_S)


class CountedRequests(RequestedStore):
    """Counts the requests of each kind, as if a listing took one request."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.requests: Counter[str] = Counter()

    def get(self, key: str, **options: Any) -> StoredObject:
        self.requests["get"] += 1
        return super().get(key, **options)

    def head(self, key: str) -> ObjectInfo:
        self.requests["head"] += 1
        return super().head(key)

    def folders(self, prefix: str) -> Sequence[str]:
        self.requests["folders"] += 1
        return super().folders(prefix)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.requests["list"] += 1
        return super().list(prefix)
