"""Lists the objects of an input, and surveys the spans and columns of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import InputNotFound, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import SMALL_BYTES, Pinned, Span, Survey
from scoreline.storage.tables.formats import Tables, is_text, kind_of
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.packed_spans import pack_spans
from scoreline.storage.tables.small_objects import Kept, KeptObjects
from scoreline.storage.tables.survey_orders import SurveyOrders
from scoreline.tasks.inputs.survey_ahead import Item, surveys
from scoreline.tasks.inputs.survey_with_helpers import can_share, survey_shared
from scoreline.tasks.job.places import is_input
from scoreline.tasks.job.plan import InputFile
from scoreline.tasks.job.uris import literal_prefix, names, parse_uri

MOST_NAMED = 1_000
"""Maximum number of large objects that are surveyed one after another. More of them could take longer than a step may,
because the requests for their footers are then sent one after another, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyedObject:
    """An object of the input, with its spans and columns."""

    file: InputFile
    schema: pa.Schema
    text: bool
    """Whether the object is text. If so, the types of its columns are inferred."""
    has_optional_columns: bool
    """Whether a row may leave a column out, as in JSON Lines."""

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.file.bucket}/{self.file.key}"


def list_inputs(buckets: Buckets, uris: Sequence[str], job_id: str = "") -> list[Pinned]:
    """List the objects that match the URIs of an input, URI by URI, and for each URI in the order of keys.

    Each object is listed once. Documents and models of Scoreline are left out, except for the records of `job_id`.

    A key that ends in ``/`` is a prefix: it matches all objects below it, except those with a file or folder name that
    begins with ``_`` or ``.``. A key with ``*``, ``?`` or ``[`` is a glob, unless an object has exactly that key; in a
    glob, ``*`` also matches ``/``. Any other key names a single object.

    Raises
    ------
    InputNotFound
        One of the URIs matches no object.
    """
    objects: list[Pinned] = []
    known: set[tuple[str, str]] = set()
    main = buckets.main.bucket
    for uri in uris:
        bucket, pattern = parse_uri(uri)
        found = _list_matches(buckets[bucket], pattern, partial(is_input, bucket, main=main, job_id=job_id))
        if len(uris) > 1:
            found = [source for source in found if (bucket, source.key) not in known]
            known.update((bucket, source.key) for source in found)
        objects += found
    return objects


def _list_matches(store: ObjectStore, pattern: str, readable: Callable[[str], bool]) -> list[Pinned]:
    """List the objects of one bucket that match a pattern and may be read; raise `InputNotFound` if there are none."""

    def listed(prefix: str) -> list[Pinned]:
        found = [info for info in store.list(prefix) if names(pattern, info.key) and readable(info.key)]
        pointers = {keys.latest(folder) for info in found if (folder := keys.output_of(info.key)) is not None}
        return [Pinned.of(store, info) for info in found if info.key not in pointers]

    if not pattern or pattern.endswith("/"):
        matches = listed(pattern)
        reason = "the prefix is empty"
    elif (prefix := literal_prefix(pattern)) != pattern:
        matches = listed(prefix)
        matches = [source for source in matches if source.key == pattern] or matches
        reason = "nothing matches the glob"
    elif not readable(pattern):
        matches, reason = [], "it is a document of Scoreline"
    else:
        try:
            return [Pinned.of(store, store.head(pattern))]
        except ObjectNotFound:
            matches, reason = [], "there is no such object (a prefix must end with '/')"
    if not matches:
        raise InputNotFound(f"no input at {store.uri(pattern)}: {reason}. Correct the URI, or upload the input first")
    return sorted(matches, key=lambda source: source.key.encode())  # some servers sort differently


def survey_inputs(
    tables: Tables,
    objects: Sequence[Pinned],
    options: ReadOptions,
    features: Collection[str] = (),
    kept: KeptObjects | None = None,
    may_pause: Callable[[], None] = lambda: None,
    gate: Callable[[], None] | None = None,
    at_object: Callable[[str], None] | None = None,
) -> list[SurveyedObject]:
    """Survey all objects, several at a time. Of Parquet objects, footers are read; text objects are read whole.

    A small object is read with one request. Objects with equal columns share one schema.

    Parameters
    ----------
    features : collection of str
        Columns that are already known to be features (see `TableFormat.survey`).
    kept : KeptObjects, optional
        Cache for small objects, from which later code in the same step reads them again.
    may_pause : callable
        Called after each object, where the caller may do something else for a while.
    gate : callable, optional
        Called before each read. It may wait.
    at_object : callable, optional
        Called with the URI of each object before it is decoded. Objects are then surveyed one after another, in this
        process. If there are more than `MOST_NAMED` large objects, they are surveyed together, and it is not called.

    Raises
    ------
    UnreadableInput
        An object cannot be read in its format.
    """
    if kept is not None:
        kept.begin(objects)
    if sum(source.size > SMALL_BYTES for source in objects) > MOST_NAMED:
        at_object = None
    alone = len(objects) == 1 and objects[0].size <= SMALL_BYTES
    reserved = ((source, Kept.NOWHERE if kept is None else kept.reserve(source)) for source in objects)

    def survey(some: Iterable[Item]) -> Generator[Survey]:
        for surveyed in surveys(tables, some, options, features, kept, gate, at_object, alone=alone):
            may_pause()
            yield surveyed

    found: list[SurveyedObject] = []
    alike = _Alike()
    orders = None if kept is None or at_object is not None else kept.orders
    with contextlib.closing(_shared(survey, reserved, objects, options, features, orders, may_pause)) as surveyed:
        for source, item in zip(objects, surveyed, strict=True):
            kind = kind_of(source.key, options)
            found.append(
                SurveyedObject(
                    file=InputFile(
                        bucket=source.store.bucket,
                        key=source.key,
                        size=source.size,
                        etag=source.etag,
                        spans=alike.spans(item.spans),
                    ),
                    schema=alike.schema(item.schema),
                    text=is_text(kind),
                    has_optional_columns=kind == "jsonl",
                )
            )
    return found


def _shared(
    survey: Callable[[Iterable[Item]], Generator[Survey]],
    reserved: Iterable[Item],
    objects: Sequence[Pinned],
    options: ReadOptions,
    features: Collection[str],
    orders: SurveyOrders | None,
    may_pause: Callable[[], None],
) -> Generator[Survey]:
    """Yield the survey of each object. Idle processes of the worker help with many small Parquet objects."""
    if orders is None or any(kind_of(source.key, options) != "parquet" for source in objects):
        yield from survey(reserved)
        return
    items = list(reserved)
    shared = can_share(items)
    if shared:
        yield from survey_shared(survey, items[:shared], features, orders, may_pause)
    yield from survey(items[shared:])


class _Alike:
    """Saves memory by sharing equal schemas and spans among many small objects."""

    _SCHEMAS = 16
    _SPANS = 4_096

    def __init__(self) -> None:
        self._schemas: list[pa.Schema] = []
        self._spans: dict[Span, tuple[Span]] = {}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """Return a recently shared schema that equals this one; if there is none, share this one."""
        for number, known in enumerate(self._schemas):
            if known.equals(schema, check_metadata=True):
                if number:
                    self._schemas.insert(0, self._schemas.pop(number))
                return known
        self._schemas = [schema, *self._schemas[: self._SCHEMAS - 1]]
        return schema

    def spans(self, spans: tuple[Span, ...]) -> Sequence[Span]:
        """Return shared spans that equal these; if there are none, share these. Only single spans are shared."""
        if len(spans) != 1 or (len(self._spans) == self._SPANS and spans[0] not in self._spans):
            return pack_spans(spans)
        return self._spans.setdefault(spans[0], (spans[0],))
