"""Stores a job's plan as one object. A worker reads only a few kilobytes of the object, even if the job has many parts.

``plan.json.gz`` is a gzip file of several members, each of them JSON: first the header, then blocks of parts. The
header gives the position and the SHA-256 of each block, so that the header's digest identifies the whole plan. ``zcat``
prints the whole plan.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectStore, StoredObject
from scoreline.storage.tables.base import SeekPoint
from scoreline.storage.typed_json import MALFORMED, MALFORMED_GZIP, build, convert, decode_object
from scoreline.tasks.job.plan import Columns, Part, Slice

BLOCK_PARTS = 512
"""Maximum number of parts in a block. A process reads one or two blocks, of about 10 kB each, before it is recycled."""
BLOCK_SLICES = 4_096
"""Maximum number of slices in a block, unless a single part has more. Decoding this many slices takes 20 ms and 3
MB."""
_FIRST_READ = 192 << 10
"""Number of bytes that are read first. This is the whole plan of a job with up to about 7,000 objects, which takes one
request instead of another one for each block."""
_BLOCKS_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class _Block:
    first_part: int
    offset: int
    """Number of bytes between the end of the header and the block."""
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Header:
    """All fields of the header except the columns."""

    identity: Mapping[str, str]
    warnings: tuple[str, ...]
    rows: int
    parts: int
    blocks: tuple[_Block, ...]

    def check(self) -> None:
        """Raise `ValueError` if the blocks cannot contain the parts."""
        firsts = [block.first_part for block in self.blocks]
        if min(self.rows, self.parts, *(min(block.offset, block.size) for block in self.blocks)) < 0:
            raise ValueError("a count is negative")
        if bool(self.parts) != bool(firsts) or (firsts or [0]) != sorted({0, *firsts}) or firsts[-1:] >= [self.parts]:
            raise ValueError("its blocks do not contain its parts")


class PlanFile:
    """A plan in the bucket. Each block is read when one of its parts is needed.

    Parameters
    ----------
    store : ObjectStore
        The store that contains the plan.
    job_id : str
        The id of the job to which the plan belongs.
    written : StoredObject, optional
        The plan, if the caller has just written it, so that its header need not be read.

    Raises
    ------
    ObjectNotFound
        The job is not planned yet.
    DocumentCorrupt
        The object is not a plan.
    """

    def __init__(self, store: ObjectStore, job_id: str, written: StoredObject | None = None) -> None:
        self._store = store
        self._key = keys.plan(job_id)
        got = written or store.get(self._key, byte_range=(0, _FIRST_READ))
        self._etag, data = got.info.etag, got.data[:_FIRST_READ]
        try:
            header = _member(data)
            while header is None and len(data) < got.info.size:
                data += store.get(self._key, byte_range=(len(data), 4 * len(data)), if_match=self._etag).data
                header = _member(data)
        except zlib.error as error:
            raise self._corrupt(error) from error
        if header is None:
            raise DocumentCorrupt(f"{store.uri(self._key)} is not a plan: its header is cut short")
        text, self._start = header
        self._first = data
        self.sha256 = sha256_hex(text)
        """Digest of the header, which contains the digest of every block. The ledger and each part's receipt are valid
        only for a plan with this digest."""
        try:
            raw = decode_object(text)
            self.columns = build(Columns, raw)
            found = build(_Header, raw)
            found.check()
        except MALFORMED as error:
            raise self._corrupt(error) from error
        self.identity = found.identity
        """The job's bucket, id, model and time, which distinguish this plan from that of any other job."""
        self.warnings = found.warnings
        """Problems that the planner accepted because the settings allow them. The job's manifest repeats them."""
        self.rows, self.parts, self._blocks = found.rows, found.parts, found.blocks
        self._firsts = [block.first_part for block in self._blocks]
        self._kept: OrderedDict[int, list[Part]] = OrderedDict()

    def part(self, number: int) -> Part:
        """Return one part. Raise `DocumentCorrupt` if the block of the part does not match its digest in the header."""
        if not 0 <= number < self.parts:
            raise DocumentCorrupt(f"{self._store.uri(self._key)} has {self.parts} parts: there is no part {number}")
        block = bisect_right(self._firsts, number) - 1
        if block not in self._kept:
            self._kept[block] = self._read(self._blocks[block])
            while len(self._kept) > _BLOCKS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[block][number - self._firsts[block]]

    def __iter__(self) -> Iterator[Part]:
        """Yield all parts, with one block in memory at a time."""
        for block in self._blocks:
            yield from self._read(block)

    def _read(self, block: _Block) -> list[Part]:
        start = self._start + block.offset
        data = self._first[start : start + block.size]
        if len(data) < block.size:
            data = self._store.get(self._key, byte_range=(start, start + block.size), if_match=self._etag).data
        if sha256_hex(data) != block.sha256:
            raise DocumentCorrupt(f"{self._store.uri(self._key)} differs from its header at part {block.first_part}")
        try:
            return _decode(decode_object(gzip.decompress(data)))
        except MALFORMED_GZIP as error:
            raise self._corrupt(error) from error

    def _corrupt(self, error: Exception) -> DocumentCorrupt:
        return DocumentCorrupt(f"{self._store.uri(self._key)} is not a plan: {type(error).__name__}: {error}")


def encode(
    columns: Columns, parts: Iterable[Part], warnings: Sequence[str] = (), *, identity: Mapping[str, str]
) -> bytes:
    """Encode a plan as the bytes of its object. Equal plans give equal bytes.

    Parameters
    ----------
    identity : mapping of str to str
        Values that distinguish this job from any other job with the same output. The digest of the plan, which is in
        every receipt, depends on these values. The results of another job are therefore never mistaken for those of
        this job.
    """
    blocks, bodies, offset = [], [], 0
    first = rows = 0
    for block in _divide(parts):
        body = _compress(_encode(block))
        blocks.append(_Block(first_part=first, offset=offset, size=len(body), sha256=sha256_hex(body)))
        bodies.append(body)
        offset += len(body)
        first += len(block)
        rows += sum(part.rows for part in block)
    optional = [
        name for name in ("rules", "challenger", "carry") if not getattr(columns, name)
    ]  # as in earlier releases
    header = {
        **{name: value for name, value in asdict(columns).items() if name not in optional},
        "identity": dict(identity),
        "warnings": list(warnings),
        "rows": rows,
        "parts": first,
        "blocks": [asdict(block) for block in blocks],
    }
    return _compress(header) + b"".join(bodies)


def _divide(parts: Iterable[Part]) -> Iterator[Sequence[Part]]:
    """Divide parts into blocks."""
    block: list[Part] = []
    slices = 0
    for part in parts:
        if block and (len(block) == BLOCK_PARTS or slices + len(part.slices) > BLOCK_SLICES):
            yield block
            block, slices = [], 0
        block.append(part)
        slices += len(part.slices)
    if block:
        yield block


def _encode(parts: Sequence[Part]) -> dict[str, Any]:
    """Encode a block. Each object is named once, and slices refer to objects by number."""
    objects: dict[tuple[str, str, int, str], int] = {}
    slices = [
        [
            [
                objects.setdefault((s.bucket, s.key, s.size, s.etag), len(objects)),
                s.start,
                s.stop,
                s.first_row,
                s.rows,
                *([] if s.only is None else [_encode_only(s.only)]),
            ]
            for s in part.slices
        ]
        for part in parts
    ]
    points: dict[int, dict[int, list[Any]]] = {}
    for s in (s for part in parts for s in part.slices):
        if (point := s.point) is not None:
            number = objects[s.bucket, s.key, s.size, s.etag]
            window = b64encode(point.window).decode()
            points.setdefault(number, {})[point.position] = [point.position, point.offset, point.bits, window]
    places = {"points": {str(number): [*found.values()] for number, found in points.items()}} if points else {}
    return {"objects": [list(item) for item in objects], "parts": slices, **places}


class _Points:
    """The positions at which decompression of the objects in a block can begin.

    Earlier releases ignore these positions.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._found: dict[int, list[SeekPoint]] = {}
        for number, points in raw.items():
            for position, offset, bits, window in points:
                if not (type(position) is type(offset) is type(bits) is int and min(position, offset) >= 0):
                    raise TypeError("a place in a compressed object is not a number")
                if bits not in range(8):
                    raise ValueError("a place in a compressed object is not at a bit")
                point = SeekPoint(position=position, offset=offset, bits=bits, window=b64decode(window, validate=True))
                self._found.setdefault(int(number), []).append(point)

    def before(self, number: int, start: int) -> SeekPoint | None:
        """Return the last position up to `start` at which decompression can begin; None if there is no such position.

        Positions and `start` are counted in the decompressed object.
        """
        if number not in self._found:  # a job may have very many small objects
            return None
        points = (point for point in self._found[number] if point.position <= start)
        return max(points, key=lambda point: point.position, default=None)


def _decode(raw: dict[str, Any]) -> list[Part]:
    objects, points = raw["objects"], _Points(raw.get("points", {}))
    if not all([type(value) for value in item] == [str, str, int, str] for item in objects):
        raise TypeError("an object is not given by bucket, key, size and ETag")
    parts = []
    for slices in raw["parts"]:
        pieces = []
        for number, start, stop, first_row, rows, *only in slices:
            bucket, key, size, etag = objects[number]
            if not (type(start) is type(stop) is type(first_row) is type(rows) is int):
                raise TypeError("the place of a slice is not a number")
            pieces.append(
                Slice(
                    bucket=bucket,
                    key=key,
                    size=size,
                    etag=etag,
                    start=start,
                    stop=stop,
                    first_row=first_row,
                    rows=rows,
                    only=_decode_only(only[0]) if only else None,
                    point=points.before(number, start),
                )
            )
        parts.append(Part(slices=tuple(pieces)))
    return parts


def _encode_only(only: Sequence[int]) -> Any:
    return {"from": only.start, "to": only.stop} if isinstance(only, range) else list(only)


def _decode_only(raw: Any) -> Sequence[int]:
    if isinstance(raw, dict):
        return range(convert(raw["from"], int, "from"), convert(raw["to"], int, "to"))
    return convert(raw, tuple[int, ...], "only")  # type: ignore[no-any-return]


def _compress(value: Any) -> bytes:
    return gzip.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n", mtime=0)


def _member(data: bytes) -> tuple[bytes, int] | None:
    """Return the text and the compressed size of the first gzip member; None if `data` ends before the member does.

    Raise `zlib.error` if the data is not gzip.
    """
    decoder = zlib.decompressobj(wbits=31)
    text = decoder.decompress(data)
    return (text, len(data) - len(decoder.unused_data)) if decoder.eof else None
