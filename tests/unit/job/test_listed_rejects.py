"""The objects with rejected rows are found by part, in the order of the numbers and not of the names."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectInfo
from scoreline.tasks.job.listed_rejects import ListedRejects

FOLDER = "out/job_id=j/"


def listed(found: Iterator[str]) -> ListedRejects:
    store = SimpleNamespace(list=lambda prefix: (ObjectInfo(key=key, size=1, etag="e") for key in found))
    layout: Any = SimpleNamespace(store=store, folder=FOLDER, rejected_folder=keys.rejected_folder(FOLDER))
    return ListedRejects(layout)


def name(part: int, attempt: int = 0) -> str:
    return keys.rejected_part(FOLDER, part, sha256_hex(b"%d %d" % (part, attempt)))


def test_parts_are_in_the_order_of_their_numbers() -> None:
    parts = [0, 7, 10_000, 10_001, 99_999, 100_000, 100_009, 1_000_000]
    found = listed(iter(sorted(name(part) for part in parts)))
    assert list(found.parts()) == parts
    assert [found.of_part(part) for part in parts] == [{name(part)} for part in parts]
    assert [found.of_part(part) for part in (1, 10_002, 2_000_000)] == [set(), set(), set()]


def test_a_part_may_have_several_objects_and_those_of_earlier_releases() -> None:
    former, first = keys.former_rejected_parts(FOLDER, 3)
    alone = keys.former_rejected_parts(FOLDER, 9)[0]
    elsewhere = f"{FOLDER}_rejected/copy/rejected-00003-{16 * 'a'}.parquet"
    others = [f"{FOLDER}_rejected/notes.txt", f"{FOLDER}_rejected/rejected-3.parquet"]
    of_three = [name(3), name(3, 1), former, first, elsewhere]
    objects = [*of_three, name(4), alone, *others]
    random.Random(0).shuffle(objects)
    found = listed(iter(objects))
    assert list(found.parts()) == [3, 4, 9]
    assert (found.of_part(3), found.of_part(4), found.of_part(9)) == ({*of_three}, {name(4)}, {alone})


def test_nothing_listed() -> None:
    found = listed(iter(()))
    assert (list(found.parts()), found.of_part(0)) == ([], set())


def test_a_listing_of_many_objects_takes_little_memory() -> None:
    count = 50_000
    tracemalloc.start()
    try:
        found = listed(name(part) for part in range(count))
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.of_part(count - 1)
    assert size < 32 * count
    assert peak < 100 * count
