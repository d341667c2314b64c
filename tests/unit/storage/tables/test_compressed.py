"""Compressed text can be read from positions in its middle, and damage raises the errors of the standard library."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables import delimited
from scoreline.storage.tables.base import Pinned, SeekPoint, Span
from scoreline.storage.tables.compressed import DecompressedFile
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.seek_points import MAX_POINTS, GzipReader, SeekPoints
from tests.support.text_tables import Put, counted, values

SPACING = 64 << 10


def lines(count: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(b"%d,%.4f,%s\n" % (n, rng.gauss(0, 1), rng.choice([b"red", b"blue"])) for n in range(count))


TEXT = lines(40_000)


def members(text: bytes, size: int, compress: Callable[[bytes], bytes]) -> bytes:
    return b"".join(compress(text[start : start + size]) for start in range(0, len(text), size))


def all_of(reader: Any, size: int = 1 << 16) -> bytes:
    return b"".join(iter(lambda: reader.read(size), b""))


GZIPPED: dict[str, Callable[[], bytes]] = {
    "fast": lambda: gzip.compress(TEXT, 1),
    "usual": lambda: gzip.compress(TEXT, 6),
    "best": lambda: gzip.compress(TEXT, 9),
    "small members": lambda: members(TEXT, 20_000, gzip.compress),
    "two members with zeros": lambda: (
        gzip.compress(TEXT[:500_000]) + bytes(30) + gzip.compress(TEXT[500_000:]) + bytes(9)
    ),
    "stored": lambda: gzip.compress(TEXT, 0),
    "one text": lambda: gzip.compress(TEXT[:1000]),
}


@pytest.mark.parametrize("name", GZIPPED)
def test_text_is_the_same_from_each_place(name: str) -> None:
    raw = GZIPPED[name]()
    points = SeekPoints(SPACING)
    whole = all_of(GzipReader(io.BytesIO(raw), points=points))
    assert whole == (TEXT[:1000] if name == "one text" else TEXT)
    assert len(points.found) > 5 or name in ("stored", "one text")
    for point in points.found:
        file = io.BytesIO(raw)
        file.seek(point.offset)
        assert all_of(GzipReader(file, point)) == whole[point.position :]
    if name in ("fast", "usual"):
        assert {point.bits % 2 for point in points.found} == {0, 1}


def test_the_number_of_places_is_bounded() -> None:
    points = SeekPoints(10)
    for position in range(10, 100_000, 10):
        if points.is_due(position):
            points.add(SeekPoint(position=position, offset=position))
    assert MAX_POINTS / 2 <= len(points.found) <= MAX_POINTS
    assert points.found[-1].position > 90_000


def damaged() -> dict[str, bytes]:
    sound = gzip.compress(TEXT[:300_000])
    rng = random.Random(3)
    found = {f"cut at {size}": sound[:size] for size in (1, 5, 10, 18, len(sound) // 2, len(sound) - 8, len(sound) - 1)}
    for place in [3, 8, len(sound) - 8, len(sound) - 2, *(rng.randrange(10, len(sound)) for _ in range(12))]:
        found[f"bit at {place}"] = sound[:place] + bytes([sound[place] ^ 1 << rng.randrange(8)]) + sound[place + 1 :]
    found |= {
        "text behind": sound + b"more",
        "a byte behind": sound + b"\x1f",
        "a header behind": sound + sound[:10],
        "zeros and text behind": sound + bytes(5) + b"x",
        "a damaged member behind": sound + sound[:1000],
        "no gzip": TEXT[:1000],
    }
    return found


@pytest.mark.parametrize("name", damaged())
def test_damage_gives_the_errors_of_the_standard_library(put: Put, name: str) -> None:
    source = put(damaged()[name], "in.csv.gz")

    def outcome(**how: Any) -> tuple[bytes, str]:
        file = DecompressedFile(source, "gzip", **how)
        found = b""
        try:
            while piece := file.read(100_000):
                found += piece
        except UnreadableInput as error:
            return found, str(error)
        return found, ""

    assert outcome(points=SeekPoints(SPACING)) == outcome()


def test_damage_where_a_seek_point_is_proved_gives_the_errors_of_the_standard_library(put: Put) -> None:
    # Given small blocks, so that the bytes with which a seek point is proved contain the end of a block
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31, 5)
    sound = compressor.compress(TEXT) + compressor.flush()
    points = SeekPoints(SPACING)
    all_of(GzipReader(io.BytesIO(sound), points=points))
    rng = random.Random(3)
    for point in points.found[:4]:
        for start in range(point.offset + 100, point.offset + 4_000, 170):
            damaged = sound[:start] + rng.randbytes(300) + sound[start + 300 :]
            source = put(damaged, "in.csv.gz")
            with pytest.raises(UnreadableInput):
                all_of(DecompressedFile(source, "gzip", points=SeekPoints(SPACING)))


COMPRESSED: dict[str, Callable[[], bytes]] = {
    "in.csv.gz": lambda: gzip.compress(b"id,x,kind\n" + TEXT),
    "in.csv.bz2": lambda: members(b"id,x,kind\n" + TEXT, 100_000, bz2.compress),
    "in.csv.xz": lambda: members(b"id,x,kind\n" + TEXT, 100_000, lambda text: lzma.compress(text) + bytes(8)),
    "in.csv.zst": lambda: pa.compress(b"id,x,kind\n" + TEXT, codec="zstd", asbytes=True),
}


def spans(source: Pinned, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Span, ...], pa.Schema]:
    monkeypatch.setattr(delimited, "SeekPoints", partial(SeekPoints, SPACING))
    survey = DelimitedFormat(ReadOptions(), SPACING).survey(source)
    assert len(survey.spans) > 10
    return survey.spans, survey.schema


@pytest.mark.parametrize("key", COMPRESSED)
def test_each_part_is_the_same_alone_and_after_another(put: Put, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    source = put(COMPRESSED[key](), key)
    found, schema = spans(source, monkeypatch)
    plain = put(b"id,x,kind\n" + TEXT)
    table = DelimitedFormat(ReadOptions(), SPACING)
    order = [*range(len(found)), 7, 3, 9]
    for number in order:
        for one in (table, DelimitedFormat(ReadOptions(), SPACING)):
            rows = values(list(one.read(source, found[number], schema, 4096)))
            assert rows == values(list(DelimitedFormat(ReadOptions()).read(plain, found[number], schema, 4096)))


@pytest.mark.parametrize("key", ["in.csv.gz", "in.csv.bz2", "in.csv.xz"])
def test_a_part_reads_the_object_from_a_place_near_it(put: Put, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    source = put(COMPRESSED[key](), key)
    found, schema = spans(source, monkeypatch)
    last = found[-1]
    assert last.point is not None
    assert last.start - 4 * SPACING < last.point.position <= last.start
    monkeypatch.setattr("scoreline.storage.tables.ranged.RangedFile.WHOLE_BYTES", 0)
    table = DelimitedFormat(ReadOptions())
    list(table.read(source, found[0], schema, 4096))  # reads the header
    sizes = counted(source, monkeypatch)
    list(DelimitedFormat(ReadOptions()).read(source, last, schema, 4096))
    assert sum(sizes[1:]) < source.size / 4, "apart from the header, only the end is read"


@pytest.mark.parametrize("key", COMPRESSED)
def test_parts_in_order_read_the_object_once(put: Put, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    source = put(COMPRESSED[key](), key)
    found, schema = spans(source, monkeypatch)
    monkeypatch.setattr("scoreline.storage.tables.ranged.RangedFile.WHOLE_BYTES", 0)
    table = DelimitedFormat(ReadOptions())
    next(table.read(source, found[0], schema, 10))  # read the first batch only, as the planner's sample does
    sizes = counted(source, monkeypatch)
    for span in found:
        list(table.read(source, span, schema, 4096))
    assert sum(sizes) <= source.size


def test_a_bomb_is_decompressed_in_small_pieces() -> None:
    raw = gzip.compress(bytes(64 << 20))
    reader = GzipReader(io.BytesIO(raw), points=SeekPoints(SPACING))
    sizes = [len(piece) for piece in iter(lambda: reader.read(100_000), b"")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 100_000


def test_the_window_of_a_place_takes_less_than_the_text(put: Put) -> None:
    points = SeekPoints(SPACING)
    all_of(GzipReader(io.BytesIO(GZIPPED["usual"]()), points=points))
    assert {len(zlib.decompress(point.window)) for point in points.found} == {32 << 10}
    assert max(len(point.window) for point in points.found) < 20_000


@pytest.mark.parametrize("later", [b"", lzma.compress(TEXT)], ids=["at the end", "between streams"])
def test_xz_that_was_cut_within_its_padding_is_refused(put: Put, later: bytes) -> None:
    first = lzma.compress(TEXT)
    sound = put(first + bytes(300_000) + later, "in.csv.xz")
    assert all_of(DecompressedFile(sound, "xz")) == TEXT * (2 if later else 1)
    with pytest.raises(UnreadableInput, match=r"the padding after a stream has 299,999 bytes, which is not a multiple"):
        all_of(DecompressedFile(put(first + bytes(299_999) + later, "in.csv.xz"), "xz"))


def test_xz_that_needs_too_much_memory_is_refused(put: Put) -> None:
    def packed(dictionary: int) -> bytes:
        return lzma.compress(TEXT[:1_000], filters=[{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}])

    # Given the dictionary of the highest level, and a larger one
    assert all_of(DecompressedFile(put(packed(64 << 20), "in.csv.xz"), "xz")) == TEXT[:1_000]
    with pytest.raises(UnreadableInput, match=r"in\.csv\.xz cannot be decompressed: Memory usage limit exceeded"):
        all_of(DecompressedFile(put(packed(128 << 20), "in.csv.xz"), "xz"))
