"""Surveys objects of an input one after another, while the next ones are fetched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import replace

from scoreline.storage.objects.gated import GatedStore
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import SMALL_BYTES, Pinned, Survey
from scoreline.storage.tables.formats import Tables, kind_of
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, Kept, KeptObjects, held_bytes, hold

_AHEAD_BYTES = 16 << 20
_LEAST_BYTES = 128 << 10
_FOOTER_BYTES = 2 << 20
_TEXT_BYTES = 8 << 20
"""Surveys run in parallel if the sum of their costs is at most `_AHEAD_BYTES`. The cost of a small object is its size,
but at least `_LEAST_BYTES`. The cost of reading a footer is `_FOOTER_BYTES`. The cost of reading a whole object is its
size, but at most `_TEXT_BYTES`."""

type Item = tuple[Pinned, Kept]
"""An object, and where `KeptObjects.reserve` found space for it."""


def surveys(
    tables: Tables,
    items: Iterable[Item],
    options: ReadOptions,
    features: Collection[str] = (),
    kept: KeptObjects | None = None,
    gate: Callable[[], None] | None = None,
    at_object: Callable[[str], None] | None = None,
    *,
    alone: bool = False,
) -> Generator[Survey]:
    """Yield the survey of each object, in order. Keep small objects where there is space for them.

    Parameters
    ----------
    gate : callable, optional
        Called before each read, in the thread that reads.
    at_object : callable, optional
        Called with the URI of each object before it is decoded. Objects are then decoded one after another.
    alone : bool
        Whether there is a single small object. A thread would take longer to start than to read it.
    """

    def fetch(item: Item) -> tuple[Item, Survey | None]:
        """Hold a small object. Survey any other object, and a text, which takes long."""
        source, place = item
        kind = kind_of(source.key, options)
        whole = RangedFile.WHOLE_BYTES if kind == "parquet" and not place else SMALL_BYTES
        if 0 < source.size <= whole:
            if gate is not None:
                gate()
            source = hold(source)
            if kind == "parquet":  # surveyed one after another: threads would take turns, which takes longer
                return (source, place), None
        return (source, place), None if at_object is not None else survey(source)

    def survey(source: Pinned) -> Survey:
        if at_object is not None:
            at_object(source.uri)
        if gate is not None and held_bytes(source) is None:
            source = replace(source, store=GatedStore(source.store, gate))
        return tables.survey(source, options, features)

    def weigh(item: Item) -> int:
        source = item[0]
        if source.size <= SMALL_BYTES:
            return max(_LEAST_BYTES, source.size)
        if kind_of(source.key, options) == "parquet":
            return _FOOTER_BYTES
        return max(_FOOTER_BYTES, min(source.size, _TEXT_BYTES))

    if alone:
        ahead = (fetch(item) for item in items)
    else:
        ahead = map_ahead(fetch, items, threads=OBJECTS_AT_ONCE, weigh=weigh, budget=_AHEAD_BYTES)
    try:
        for (source, place), early in ahead:
            surveyed = early or survey(source)
            if kept is not None and place:
                kept.add(source, surveyed, place)
            yield Survey(schema=surveyed.schema, spans=surveyed.spans)  # the rest keeps the bytes of the object
            del source, surveyed, early
    finally:
        ahead.close()
