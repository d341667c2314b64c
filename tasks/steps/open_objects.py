"""Fetches the small objects of a part before they are needed, many with one request if the planner has packed them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from scoreline.storage.errors import ScorelineError
from scoreline.storage.objects.base import PAGE_KEYS, ObjectStore
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.small_objects import OBJECTS_AT_ONCE, SMALL_BYTES, held, held_bytes, hold
from scoreline.tasks.job.plan import PackPlace, Slice

AHEAD_BYTES = 16 << 20
"""Maximum size of the small objects that are fetched, but not decoded yet."""
_RANGE_BYTES = 4 << 20
"""Maximum size of a request to a pack."""
_LISTED_AT_ONCE = PAGE_KEYS
"""Maximum number of packed objects in a listing."""
_OTHERS_LISTED = 10
"""Number of other objects that may lie between them, so that the listing still takes one request."""

type SlicedObject = tuple[Sequence[Slice], Pinned]
"""An object, and the slices of it."""


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Request for the current ETags of objects in one bucket."""

    objects: Sequence[SlicedObject]


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Request for consecutive objects of a pack."""

    objects: Sequence[SlicedObject]
    key: str
    etag: str
    start: int
    stop: int


type _Request = _Listing | _Range | SlicedObject


def open_objects(main: ObjectStore, objects: Sequence[SlicedObject]) -> Generator[SlicedObject]:
    """Yield objects in order. Small objects are held in memory, and are fetched before they are needed.

    A packed object is taken from its pack only if a listing still has its ETag. Otherwise the object itself is read,
    which raises the right error if the object has changed. Packs may be gone.

    Parameters
    ----------
    main : ObjectStore
        The bucket that contains the packs.

    Raises
    ------
    InputChanged
        An object was replaced or deleted after the job was planned.
    """
    if len(objects) <= 1 or not any(map(_size_to_hold, objects)):
        yield from map(_hold, objects)
        return
    current: dict[str, str] = {}
    gone: set[str] = set()

    def fetch(request: _Request) -> tuple[_Request, bytes | None]:
        match request:
            case _Listing():
                current.update(_list_current(request.objects))
                return request, None
            case _Range():
                return request, None if request.key in gone else _fetch_range(main, request, gone)
            case _:
                return _hold(request), None

    ahead = map_ahead(fetch, _requests(objects), threads=OBJECTS_AT_ONCE, weigh=_weigh, budget=AHEAD_BYTES)
    with contextlib.closing(ahead) as answers:
        for request, data in answers:
            match request:
                case _Listing():
                    pass
                case _Range():
                    yield from _open_range(request, data, current)
                case _:
                    yield request


def _requests(objects: Sequence[SlicedObject]) -> Iterator[_Request]:
    """Yield the requests for objects in order. The listing of packed objects precedes their ranges."""
    pending: list[_Request] = []
    packed: list[SlicedObject] = []
    for run in _runs(objects):
        if isinstance(run, _Range):
            other = packed and packed[0][1].store is not run.objects[0][1].store
            if other or len(packed) + len(run.objects) > _LISTED_AT_ONCE:
                yield from ([_Listing(objects=packed)] if packed else [])
                yield from pending
                pending, packed = [], []
            packed += run.objects
        pending.append(run)
    yield from ([_Listing(objects=packed)] if packed else [])
    yield from pending


def _runs(objects: Sequence[SlicedObject]) -> Iterator[_Range | SlicedObject]:
    """Combine consecutive objects that are next to each other in a pack. Yield all other objects as they are."""
    run: list[SlicedObject] = []
    first: PackPlace | None = None
    stop = 0
    for item in objects:
        (piece, *_), source = item
        place = piece.pack
        fits = (
            first is not None
            and place is not None
            and (place.key, place.etag, place.offset) == (first.key, first.etag, stop)
            and stop + source.size - first.offset <= _RANGE_BYTES
            and len(run) < _LISTED_AT_ONCE
            and source.store is run[0][1].store
        )
        if not fits:
            yield from _close(run, first, stop)
            run, first, stop = [], place, place.offset if place else 0
        run.append(item)
        stop += source.size
    yield from _close(run, first, stop)


def _close(run: list[SlicedObject], first: PackPlace | None, stop: int) -> Iterator[_Range | SlicedObject]:
    if first is None or len(run) == 1:
        yield from run
    else:
        yield _Range(objects=run, key=first.key, etag=first.etag, start=first.offset, stop=stop)


def _list_current(objects: Sequence[SlicedObject]) -> dict[str, str]:
    """Return the current ETags of those objects that a short listing contains, by URI.

    The listing is bounded, because any number of other objects may lie between those of the job.
    """
    wanted = {source.key: source for _, source in objects}
    store = objects[0][1].store
    first, *_, last = sorted(wanted, key=str.encode)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))))
    prefix = first[:same]
    found: dict[str, str] = {}
    with contextlib.suppress(ScorelineError):  # without a listing, each object is read itself
        after = first[:-1] if len(first) > same else ""
        listed = store.list(prefix, after=after, page_keys=min(PAGE_KEYS, len(wanted) + _OTHERS_LISTED))
        for info in islice(listed, 2 * len(wanted) + _LISTED_AT_ONCE):
            if info.key in wanted and info.size == wanted[info.key].size:
                found[wanted[info.key].uri] = info.etag
            if len(found) == len(wanted) or info.key.encode() > last.encode():
                break
    return found


def _fetch_range(main: ObjectStore, request: _Range, gone: set[str]) -> bytes | None:
    """Return the bytes of a range of a pack; None if the pack is gone or was changed."""
    try:
        data = main.get(request.key, byte_range=(request.start, request.stop), if_match=request.etag).data
    except ScorelineError:
        data = b""
    if len(data) == request.stop - request.start:
        return data
    gone.add(request.key)
    return None


def _open_range(request: _Range, data: bytes | None, current: Mapping[str, str]) -> Iterator[SlicedObject]:
    """Yield the objects of a range, and read those themselves that are not in the pack or may have changed."""
    opened, offset = [], 0
    for pieces, source in request.objects:
        valid = data is not None and current.get(source.uri) == source.etag
        opened.append((pieces, held(source, data[offset : offset + source.size]) if data and valid else source))
        offset += source.size
    if all(held_bytes(source) is not None for _, source in opened):
        yield from opened
    else:
        yield from map_ahead(_hold, opened, threads=OBJECTS_AT_ONCE, weigh=_size_to_hold, budget=AHEAD_BYTES)


def _hold(item: SlicedObject) -> SlicedObject:
    return (item[0], hold(item[1])) if _size_to_hold(item) and held_bytes(item[1]) is None else item


def _size_to_hold(item: SlicedObject) -> int:
    """Return the size of a small object, which is fetched as a whole; return 0 for a large object."""
    return item[1].size if item[1].size <= SMALL_BYTES else 0


def _weigh(request: _Request) -> int:
    match request:
        case _Listing():
            return 1
        case _Range():
            return request.stop - request.start
        case _:
            return _size_to_hold(request)
