"""The report of a table with many columns takes little more memory than what it shows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.report import collect
from scoreline.tasks.quality.report.columns import compared_columns

COLUMNS = 20


def test_what_is_computed_of_a_histogram_is_freed_before_the_next_column() -> None:
    random = np.random.default_rng(4)
    now, before = (
        profile_of(pa.table({f"x{number}": random.normal(size=5_000) * spread for number in range(COLUMNS)}))
        for spread in (1.0, 9.0)
    )
    levels = [[column.histogram.level for column in profile.columns.values()] for profile in (now, before)]
    assert levels[0] != levels[1]  # so that the buckets of some columns have to be joined
    tracemalloc.start()
    try:
        columns = compared_columns(now, before, ())
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(columns) == COLUMNS
    # The buckets of both histograms, and how many values are up to each, would take 60 KB
    assert taken < COLUMNS * 12_000


def test_the_documents_of_profiles_are_not_kept_until_the_report_is_made(tmp_path: Path) -> None:
    store = CachingStore(DirectoryStore(tmp_path, "scoreline"), collect._ALL_BUT_PROFILES)
    profile, other = keys.results_profile("out/job_id=a/"), keys.results_manifest("out/job_id=a/")
    for key in (profile, other):
        store.put(key, b"{}")
        store.get(key)
    assert store.cached(profile) is None
    assert store.cached(other) is not None
