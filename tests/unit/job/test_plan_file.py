from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.base import SeekPoint
from scoreline.storage.tables.row_rules import RowRule
from scoreline.tasks.job import plan_file
from scoreline.tasks.job.plan import Columns, Part, Slice
from scoreline.tasks.job.plan_file import BLOCK_PARTS, BLOCK_SLICES, PlanFile, _divide, encode

IDENTITY = {"bucket": "bucket", "job_id": "job", "model": "m@v", "submitted": "2026-11-25"}


def encoded(columns: Columns, parts: Sequence[Part], warnings: Sequence[str] = (), **identity: str) -> bytes:
    return encode(columns, parts, warnings, identity=IDENTITY | identity)


COLUMNS = Columns(features=("x", "größe"), keep=("id",), schema="c2NoZW1h")


class Counting(DirectoryStore):
    """Records how many bytes each read returned."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.reads: list[int] = []

    def get(self, key: str, **options: Any) -> StoredObject:
        got = super().get(key, **options)
        self.reads.append(len(got.data))
        return got


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path, "bucket")


def parts_of(count: int) -> list[Part]:
    return [
        Part(
            slices=tuple(
                Slice(
                    bucket="b",
                    key=f"in/{n // 7:06}-{n * 2654435761 % 2**32:08x}.parquet",
                    size=9 * n,
                    etag=f"{n // 7:032x}",
                    start=n,
                    stop=n + 1 + extra,
                    first_row=n,
                    rows=n % 5,
                    only={3: (n, n + 2), 5: range(n, n + 2)}.get(n % 11),
                )
                for extra in range(1 + n % 3)
            )
        )
        for n in range(count)
    ]


def put(store: Counting, parts: Sequence[Part], warnings: Sequence[str] = ()) -> PlanFile:
    store.put(keys.plan("job"), encoded(COLUMNS, parts, warnings))
    return PlanFile(store, "job")


@pytest.mark.parametrize("count", [0, 1, BLOCK_PARTS, BLOCK_PARTS + 1, 3 * BLOCK_PARTS + 7])
def test_a_plan_survives_its_encoding(store: Counting, count: int) -> None:
    parts = parts_of(count)
    plan = put(store, parts, ["skewed"])
    assert (plan.columns, plan.warnings, plan.parts) == (COLUMNS, ("skewed",), count)
    assert plan.rows == sum(part.rows for part in parts)
    assert list(plan) == parts
    assert [plan.part(n) for n in range(count)] == parts
    assert encoded(COLUMNS, parts, ["skewed"]) == encoded(COLUMNS, parts, ["skewed"])


def test_reading_a_part_of_a_large_plan_reads_little_of_it(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_file, "_FIRST_READ", 64 << 10)
    plan = put(store, parts_of(40_000))
    whole = store.head(keys.plan("job")).size
    plan.part(24_321)
    plan.part(24_322)
    assert len(store.reads) == 2
    assert sum(store.reads) < whole / 5


def test_a_plan_of_a_few_thousand_objects_is_read_with_one_request(store: Counting) -> None:
    (piece,) = parts_of(1)[0].slices
    slices = [
        replace(piece, key=f"in/{n:05}.parquet", etag=hashlib.sha256(bytes([n % 256, n // 256])).hexdigest()[:32])
        for n in range(5_000)
    ]
    parts = [Part(slices=tuple(slices[first : first + 1_000])) for first in range(0, 5_000, 1_000)]
    assert list(put(store, parts)) == parts
    assert len(store.reads) == 1


def test_a_header_longer_than_the_first_read_is_read_whole(store: Counting) -> None:
    columns = Columns(features=tuple(f"{n * 2654435761 % 2**64:016x}" for n in range(20_000)), keep=(), schema="")
    store.put(keys.plan("job"), encoded(columns, parts_of(3)))
    plan = PlanFile(store, "job")
    assert plan.columns == columns
    assert plan.part(2) == parts_of(3)[2]


def test_the_digest_covers_every_part(store: Counting, tmp_path: Path) -> None:
    parts = parts_of(BLOCK_PARTS + 2)
    first = put(store, parts).sha256
    parts[-1], parts[-2] = parts[-2], parts[-1]
    assert put(Counting(tmp_path / "other", "bucket"), parts).sha256 != first


@pytest.mark.parametrize("what", ["bucket", "job_id", "model", "submitted"])
def test_plans_of_two_jobs_with_the_same_input_differ(store: Counting, tmp_path: Path, what: str) -> None:
    other = Counting(tmp_path / "other", "bucket")
    other.put(keys.plan("job"), encoded(COLUMNS, parts_of(3), **{what: "another"}))
    assert put(store, parts_of(3)).sha256 != PlanFile(other, "job").sha256


def test_a_block_that_differs_from_the_header_is_refused(store: Counting) -> None:
    data = bytearray(encoded(COLUMNS, parts_of(20_000)))
    data[-20] ^= 1
    store.put(keys.plan("job"), bytes(data))
    plan = PlanFile(store, "job")
    assert plan.part(0) == parts_of(1)[0]
    with pytest.raises(DocumentCorrupt, match="part 19968"):
        plan.part(19_999)


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"no json"), gzip.compress(b"{}"), encoded(COLUMNS, [])[:20]],
    ids=["no gzip", "no json", "no header", "cut"],
)
def test_an_object_that_is_not_a_plan_is_named(store: Counting, data: bytes) -> None:
    store.put(keys.plan("job"), data)
    with pytest.raises(DocumentCorrupt, match="plan"):
        PlanFile(store, "job")


def test_a_missing_part_and_a_missing_plan_are_named(store: Counting) -> None:
    with pytest.raises(ObjectNotFound):
        PlanFile(store, "job")
    with pytest.raises(DocumentCorrupt, match="there is no part 3"):
        put(store, parts_of(3)).part(3)


def test_any_tool_can_read_a_plan() -> None:
    lines = gzip.decompress(encoded(COLUMNS, parts_of(2))).decode().splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [
        sorted(
            [
                "features",
                "keep",
                "schema",
                "reads",
                "folders",
                "types",
                "frames",
                "batch_rows",
                "identity",
                "warnings",
                "rows",
                "parts",
                "blocks",
            ]
        ),
        ["objects", "parts"],
    ]


def test_a_block_of_parts_with_many_slices_has_few_parts(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_file, "_FIRST_READ", 64 << 10)
    (piece,) = parts_of(1)[0].slices
    parts = [
        Part(slices=tuple(replace(piece, key=f"in/{part * 2654435761 % 2**32:08x}/{n}") for n in range(256)))
        for part in range(200)
    ] + [Part(slices=(piece,) * (BLOCK_SLICES + 1)), parts_of(1)[0]]
    plan = put(store, parts)
    whole = store.head(keys.plan("job")).size
    assert list(plan) == parts
    store.reads.clear()
    again = PlanFile(store, "job")
    assert [again.part(number) for number in (100, 101)] == parts[100:102]
    assert sum(store.reads) < whole / 2
    assert [len(block) for block in _divide(parts)] == [16] * 12 + [8, 1, 1]


def test_a_slice_knows_the_last_place_at_which_its_object_can_be_decompressed(store: Counting) -> None:
    points = [SeekPoint(position=100 * n, offset=40 * n, bits=n, window=bytes([n, 255]) * n) for n in (1, 2)]
    first = Slice(bucket="b", key="in.csv.gz", size=99, etag="e", start=20, stop=150, first_row=0, rows=13)
    second = replace(first, start=150, stop=230, first_row=13, point=points[0])
    parts = [Part(slices=(first,)), Part(slices=(second,)), Part(slices=(replace(second, start=230, point=points[1]),))]
    store.put(keys.plan("job"), encoded(COLUMNS, parts))
    assert list(PlanFile(store, "job")) == parts


def test_a_block_of_a_plan_differs_from_that_of_the_release_before_only_by_the_places(store: Counting) -> None:
    plain = Slice(bucket="b", key="in.csv.gz", size=99, etag="e", start=20, stop=150, first_row=0, rows=13)
    with_place = replace(plain, point=SeekPoint(position=7, offset=3))

    def block(piece: Slice) -> dict[str, object]:
        data = encoded(COLUMNS, [Part(slices=(piece,))])
        found: dict[str, object] = json.loads(gzip.decompress(data).splitlines()[1])
        return found

    assert block(with_place) == block(plain) | {"points": {"0": [[7, 3, 0, ""]]}}
    assert block(plain).keys() == {"objects", "parts"}


@pytest.mark.parametrize("point", [[1, 2, 8, ""], [1, -2, 0, ""], ["1", 2, 0, ""], [1, 2, 0, "?"], [1, 2, 0]])
def test_a_place_that_cannot_be_is_refused(store: Counting, monkeypatch: pytest.MonkeyPatch, point: object) -> None:
    piece = Slice(bucket="b", key="in.csv.gz", size=99, etag="e", start=20, stop=150, first_row=0, rows=13)
    encode_block = plan_file._encode
    monkeypatch.setattr(plan_file, "_encode", lambda parts: encode_block(parts) | {"points": {"0": [point]}})
    store.put(keys.plan("job"), encoded(COLUMNS, [Part(slices=(piece,))]))
    with pytest.raises(DocumentCorrupt):
        PlanFile(store, "job").part(0)


RULES = (
    RowRule(column="x", rule="not_null"),
    RowRule(column="id", rule="in", value=["a", "b"]),
    RowRule(column="day", rule="max", value={"date": "2026-11-29"}),
)


def test_a_plan_pins_the_rules_of_rows_under_its_digest(store: Counting) -> None:
    store.put(keys.plan("job"), encoded(replace(COLUMNS, rules=RULES), parts_of(2)))
    with_rules = PlanFile(store, "job")
    assert with_rules.columns.rules == RULES
    plain = put(store, parts_of(2))
    assert plain.columns.rules == ()
    assert plain.sha256 != with_rules.sha256


def test_the_header_of_a_plan_without_rules_is_that_of_earlier_releases() -> None:
    header = json.loads(gzip.decompress(encoded(COLUMNS, [])))
    assert "rules" not in header


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "x", "rule": "least", "value": 1},
        {"column": "x", "rule": "min", "value": "1"},
        {"column": "x", "rule": "min", "value": {"day": "2026-11-29"}},
        {"column": "x", "rule": "min", "value": {}},
        {"column": 5, "rule": "not_null"},
    ],
)
def test_a_plan_with_a_malformed_rule_is_refused(store: Counting, rule: dict[str, Any]) -> None:
    header = json.loads(gzip.decompress(encoded(COLUMNS, []))) | {"rules": [rule]}
    store.put(keys.plan("job"), gzip.compress(json.dumps(header).encode()))
    with pytest.raises(DocumentCorrupt, match=r"plan\.json\.gz is not a plan"):
        PlanFile(store, "job")
