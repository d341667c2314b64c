"""A worker that counts every operation on its store: ``celery -A benchmarks.counted worker``.

Each process writes its counts to a file of its own below ``COUNT_DIR``, and `read` adds up all files. Operations are
counted as R2 bills them: a listing of 2,500 keys counts as three.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.worker.celery import app

CLASSES = ("get", "head", "put", "list", "delete")
PAGE_KEYS = 1_000
_lock = threading.Lock()
_COUNTS = struct.Struct(f"<{len(CLASSES)}Q")

__all__ = ["app", "read"]


def read(folder: Path) -> Counter[str]:
    """Add up the counts of all processes."""
    total: Counter[str] = Counter()
    for file in folder.iterdir():
        total.update(dict(zip(CLASSES, _COUNTS.unpack(file.read_bytes()), strict=True)))
    return total


def _note(name: str) -> None:
    with _lock:
        file = Path(os.environ["COUNT_DIR"], str(os.getpid()))
        counts = list(_COUNTS.unpack(file.read_bytes())) if file.exists() else [0] * len(CLASSES)
        counts[CLASSES.index(name)] += 1
        file.write_bytes(_COUNTS.pack(*counts))


def _counted(name: str) -> Callable[..., Any]:
    method = getattr(DirectoryStore, name)

    def call(self: DirectoryStore, *arguments: Any, **options: Any) -> Any:
        _note(name)
        return method(self, *arguments, **options)

    return call


def _counted_list(self: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
    number = -1
    for number, info in enumerate(_list(self, prefix)):
        if number % PAGE_KEYS == 0:
            _note("list")
        yield info
    if number < 0:
        _note("list")


_list = DirectoryStore.list
if os.environ.get("COUNT_DIR"):
    for _name in ("get", "head", "put", "delete"):
        setattr(DirectoryStore, _name, _counted(_name))
    DirectoryStore.list = _counted_list  # type: ignore[method-assign]
