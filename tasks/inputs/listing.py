"""Lists the objects of an input, and surveys the spans and columns of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import InputNotFound, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.gated import GatedStore
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import Pinned, Span, Survey
from scoreline.storage.tables.formats import Tables, is_text, kind_of
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.packed_spans import pack_spans
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, SMALL_BYTES, Kept, KeptObjects, held_bytes, hold
from scoreline.tasks.job.places import is_input
from scoreline.tasks.job.plan import InputFile
from scoreline.tasks.job.uris import literal_prefix, names, parse_uri

_AHEAD_BYTES = 16 << 20
_LEAST_BYTES = 256 << 10
_FOOTER_BYTES = 2 << 20
_TEXT_BYTES = 8 << 20
"""Surveys run in parallel if the sum of their costs is at most `_AHEAD_BYTES`. The cost of a small object is its size,
but at least `_LEAST_BYTES`. The cost of reading a footer is `_FOOTER_BYTES`. The cost of reading a whole object is its
size, but at most `_TEXT_BYTES`."""


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

    Raises
    ------
    UnreadableInput
        An object cannot be read in its format.
    """

    def fetch(item: tuple[Pinned, Kept]) -> tuple[Pinned, Kept, str | None, Survey | None]:
        """Hold a small object. Survey any other object, and a text, which takes long."""
        source, place = item
        kind = kind_of(source.key, options)
        whole = RangedFile.WHOLE_BYTES if kind == "parquet" and not place else SMALL_BYTES
        if 0 < source.size <= whole:
            if gate is not None:
                gate()
            source = hold(source)
            if kind == "parquet":  # surveyed one after another: threads would take turns, which takes longer
                return source, place, kind, None
        gated = source if gate is None else replace(source, store=GatedStore(source.store, gate))
        return source, place, kind, tables.survey(gated if held_bytes(source) is None else source, options, features)

    found = []
    alike = _Alike()

    def weigh(item: tuple[Pinned, Kept]) -> int:
        source = item[0]
        if source.size <= SMALL_BYTES:
            return max(_LEAST_BYTES, source.size)
        if kind_of(source.key, options) == "parquet":
            return _FOOTER_BYTES
        return max(_FOOTER_BYTES, min(source.size, _TEXT_BYTES))

    if kept is not None:
        kept.begin(objects)
    reserved = ((source, Kept.NOWHERE if kept is None else kept.reserve(source)) for source in objects)
    if len(objects) == 1 and objects[0].size <= SMALL_BYTES:  # a thread would take longer to start than to read
        ahead = (fetch(item) for item in reserved)
    else:
        ahead = map_ahead(fetch, reserved, threads=OBJECTS_AT_ONCE, weigh=weigh, budget=_AHEAD_BYTES)
    with contextlib.closing(ahead) as surveys:
        for source, place, kind, early in surveys:
            may_pause()
            surveyed = early or tables.survey(source, options, features)
            if kept is not None and place:
                kept.add(source, surveyed, place)
            found.append(
                SurveyedObject(
                    file=InputFile(
                        bucket=source.store.bucket,
                        key=source.key,
                        size=source.size,
                        etag=source.etag,
                        spans=alike.spans(surveyed.spans),
                    ),
                    schema=alike.schema(surveyed.schema),
                    text=is_text(kind),
                    has_optional_columns=kind == "jsonl",
                )
            )
    return found


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
