"""Lists the objects of an input, and surveys the spans and columns of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from scoreline.storage.errors import InputNotFound, ObjectNotFound
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.formats import Tables, is_text
from scoreline.storage.tables.options import ReadOptions, format_of
from scoreline.tasks.job.places import is_input
from scoreline.tasks.job.plan import InputFile
from scoreline.tasks.job.uris import GLOB, names, parse_uri

_SURVEY_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class SurveyedObject:
    """An object of the input, with its spans and columns."""

    file: InputFile
    uri: str
    schema: pa.Schema
    text: bool
    """Whether the object is text. The types of its columns are then inferred."""
    has_optional_columns: bool
    """Whether a row may leave a column out, as in JSON Lines."""


def list_inputs(buckets: Buckets, uris: Sequence[str], job_id: str = "") -> list[Pinned]:
    """List the objects that match the URIs of an input, in the order of the URIs and then of their keys.

    Each object is listed once. Documents and models of Scoreline are left out, except for the records of `job_id`.

    A key that ends in ``/`` is a prefix: it matches all objects below it, except those with a file or folder name that
    begins with ``_`` or ``.``. A key with ``*``, ``?`` or ``[`` is a glob, unless an object has exactly that key; in a
    glob, ``*`` also matches ``/``. Any other key is that of a single object.

    Raises
    ------
    InputNotFound
        One of the URIs matches no object.
    """
    objects: dict[tuple[str, str], Pinned] = {}
    main = buckets.main.bucket
    for uri in uris:
        bucket, pattern = parse_uri(uri)
        store = buckets[bucket]
        for info in _list_matches(store, pattern, partial(is_input, bucket, main=main, job_id=job_id)):
            objects.setdefault((bucket, info.key), Pinned.of(store, info))
    return list(objects.values())


def _list_matches(store: ObjectStore, pattern: str, readable: Callable[[str], bool]) -> list[ObjectInfo]:
    """List the objects of one bucket that match a pattern and are readable; there is always at least one."""
    if not pattern or pattern.endswith("/"):
        matches = [info for info in store.list(pattern) if names(pattern, info.key) and readable(info.key)]
        reason = "the prefix is empty"
    elif magic := GLOB.search(pattern):
        listed = store.list(pattern[: magic.start()])
        matches = [info for info in listed if names(pattern, info.key) and readable(info.key)]
        matches = [info for info in matches if info.key == pattern] or matches
        reason = "nothing matches the glob"
    elif not readable(pattern):
        matches, reason = [], "it is a document of Scoreline"
    else:
        try:
            return [store.head(pattern)]
        except ObjectNotFound:
            matches, reason = [], "there is no such object (a prefix must end with '/')"
    if not matches:
        raise InputNotFound(f"no input at {store.uri(pattern)}: {reason}. Correct the URI, or upload the input first")
    return sorted(matches, key=lambda info: info.key.encode())  # some servers sort the names of each folder instead


def survey_inputs(
    tables: Tables, objects: Sequence[Pinned], options: ReadOptions, features: Collection[str] = ()
) -> list[SurveyedObject]:
    """Survey all objects, several at a time. Of Parquet, only the footer is read; text is read completely.

    Parameters
    ----------
    features : collection of str
        Columns that are known to be scored (see `TableFormat.survey`).

    Raises
    ------
    UnreadableInput
        An object cannot be read in its format.
    """

    def survey(source: Pinned) -> SurveyedObject:
        kind = format_of(source.key, options)[0]
        surveyed = tables.survey(source, options, features)
        return SurveyedObject(
            file=InputFile(
                bucket=source.store.bucket, key=source.key, size=source.size, etag=source.etag, spans=surveyed.spans
            ),
            uri=source.uri,
            schema=surveyed.schema,
            text=is_text(kind),
            has_optional_columns=kind == "jsonl",
        )

    with ThreadPoolExecutor(_SURVEY_THREADS, thread_name_prefix="survey") as pool:
        return list(pool.map(survey, objects))
