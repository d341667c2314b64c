"""Which objects an input names, and what each of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from scoreline.storage.errors import InputNotFound, ObjectNotFound
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.formats import Tables, is_text
from scoreline.storage.tables.options import ReadOptions, format_of
from scoreline.tasks.job.plan import InputFile
from scoreline.tasks.job.uris import GLOB, names, parse_uri

_SURVEY_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """An object of the input, and its columns."""

    file: InputFile
    uri: str
    schema: pa.Schema
    text: bool
    """Whether its types are guesses."""


def find(buckets: Buckets, uris: Sequence[str]) -> list[Pinned]:
    """List the objects that the URIs of an input name, in their order; what several of them name is there once.

    A key that ends in ``/`` stands for all below it whose steps do not begin with ``_`` or ``.``; one with ``*``, ``?``
    or ``[`` is a glob in which ``*`` matches ``/`` too, unless an object has just that key; any other is one object.

    Raises
    ------
    InputNotFound
        One of the URIs names none.
    """
    found: dict[tuple[str, str], Pinned] = {}
    for uri in uris:
        bucket, pattern = parse_uri(uri)
        store = buckets[bucket]
        for info in _find(store, pattern):
            found.setdefault((bucket, info.key), Pinned.of(store, info))
    return list(found.values())


def _find(store: ObjectStore, pattern: str) -> list[ObjectInfo]:
    if not pattern or pattern.endswith("/"):
        found = [info for info in store.list(pattern) if names(pattern, info.key)]
        what = "the prefix is empty"
    elif magic := GLOB.search(pattern):
        found = [info for info in store.list(pattern[: magic.start()]) if names(pattern, info.key)]
        found = [info for info in found if info.key == pattern] or found
        what = "nothing matches the glob"
    else:
        try:
            return [store.head(pattern)]
        except ObjectNotFound:
            found, what = [], "there is no such object (a prefix has to end with '/')"
    if not found:
        raise InputNotFound(f"no input at {store.uri(pattern)}: {what}")
    return found


def survey(tables: Tables, found: Sequence[Pinned], options: ReadOptions) -> list[Surveyed]:
    """Look at all objects, several at a time: footers of Parquet, the whole of text (raises `UnreadableInput`)."""

    def look(source: Pinned) -> Surveyed:
        seen = tables.survey(source, options)
        return Surveyed(
            file=InputFile(
                bucket=source.store.bucket, key=source.key, size=source.size, etag=source.etag, spans=seen.spans
            ),
            uri=source.uri,
            schema=seen.schema,
            text=is_text(format_of(source.key, options)[0]),
        )

    with ThreadPoolExecutor(_SURVEY_THREADS, thread_name_prefix="survey") as pool:
        return list(pool.map(look, found))
