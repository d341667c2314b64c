"""Packed profiles are added up as profiles are merged, and damage is noticed."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreline.storage.errors import DocumentCorrupt
from scoreline.tasks.quality.profiles import number_counts
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.footers import ProfileSum, pack, pack_document, unpack
from scoreline.tasks.quality.profiles.part_counts import PartCounts
from scoreline.tasks.quality.profiles.profile import Profile

SEGMENTS = [f"s{number:02}" for number in range(70)]
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(), st.integers(-5, 5).map(float)),
        st.one_of(st.none(), st.text("ab", max_size=3)),
        st.one_of(st.none(), st.sampled_from(SEGMENTS)),
    ),
    max_size=25,
)


def of_rows(rows: list[Any], segment: str = "segment", one_in: int = 1) -> Profile:
    return counted(rows, segment, one_in).profile()


def counted(rows: list[Any], segment: str = "segment", one_in: int = 1) -> PartCounts:
    counts = PartCounts(features=["x", "t"], kept=["segment"], segment=segment, one_in=one_in)
    batch = pa.RecordBatch.from_pydict(
        {
            "x": pa.array([row[0] for row in rows], pa.float64()),
            "t": pa.array([row[1] for row in rows], pa.string()),
            "segment": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    rejected = [number for number, row in enumerate(rows) if row[0] is None]
    results = batch.filter(pa.array([row[0] is not None for row in rows], pa.bool_()))
    scores = pa.Table.from_batches([results.select(["segment"])])
    scores = scores.append_column("prediction", pa.array(np.arange(len(scores), dtype=np.int64) % 3))
    counts.add(batch, scores, rejected, [("s3://bucket/object", np.arange(len(rows)))])
    return counts


@settings(max_examples=20)  # each example makes many histograms
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_packed_profiles_add_up_to_the_merged_profile(parts: list[list[Any]]) -> None:
    profiles = [of_rows(rows) for rows in parts]
    merged, added, reversed_ = Profile(), ProfileSum(), ProfileSum()
    for profile in profiles:
        merged = merged.merge(profile)
        assert unpack(pack(profile)) == profile
        added.add(pack(profile))
    for profile in reversed(profiles):
        reversed_.add(pack(profile))
    assert added.profile() == merged
    assert json.dumps(added.profile().to_dict()) == json.dumps(reversed_.profile().to_dict())


def test_the_segments_beyond_the_first_are_added_to_the_others() -> None:
    parts = [of_rows([(float(number), "t", SEGMENTS[number]) for number in numbers]) for numbers in CUT_SEGMENTS]
    for profiles in (parts, parts[::-1]):
        merged, added = Profile(), ProfileSum()
        for profile in profiles:
            merged = merged.merge(profile)
            added.add(pack(profile))
        assert len(merged.segments) == 50
        assert added.profile() == merged


CUT_SEGMENTS = (range(20, 70), range(5, 45), range(0, 70, 3), range(60, 70))


@given(ROWS)
def test_a_part_is_packed_as_its_profile(rows: list[Any]) -> None:
    for segment in ("", "segment"):
        counts = counted(rows, segment)
        profile = counts.profile()
        assert counts.pack() == pack(profile)


@pytest.mark.skipif(number_counts.counts is None, reason="the extension is not built")
def test_a_part_is_packed_alike_with_and_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = [counted(some_rows(3_000), segment="").pack()]
    monkeypatch.setattr(number_counts, "counts", None)
    packed.append(counted(some_rows(3_000), segment="").pack())
    assert packed[0] == packed[1]


def some_rows(count: int) -> list[Any]:
    rng = np.random.default_rng(3)
    return [(float(x), "t", f"s{number % 60:02}") for number, x in enumerate(rng.normal(size=count))]


@pytest.mark.parametrize("cut", [1, 10, 100, -1])
def test_a_cut_text_is_damaged(cut: int) -> None:
    text = pack(of_rows(some_rows(200)))
    with pytest.raises(DocumentCorrupt, match=r"^part 3 is damaged: "):
        ProfileSum().add(text[:cut], "part 3")


@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_harmless(place: int, change: int) -> None:
    data = bytearray(zlib.decompress(base64.b64decode(PACKED)))
    data[place % len(data)] ^= change
    added = ProfileSum()
    try:
        added.add(base64.b64encode(zlib.compress(bytes(data))).decode())
    except DocumentCorrupt:
        assert added.profiles == 0
    added.add(PACKED_OTHER)
    added.profile()


PACKED = pack(of_rows(some_rows(100)))
PACKED_OTHER = pack(Profile())


def test_profiles_of_other_samples_or_segments_do_not_fit() -> None:
    added = ProfileSum()
    added.add(pack(of_rows(some_rows(10))))
    for other in (of_rows(some_rows(10), segment=""), of_rows(some_rows(10), one_in=2)):
        with pytest.raises(DocumentCorrupt, match="different samples or segments"):
            added.add(pack(other))
    assert (added.profiles, added.profile().rows) == (1, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": [{"name": "y", "kind": "feature", "type": "empty", "rows": 1}]},
        {"one_in": 2},
        {"segment": "x"},
        {"other_segments": {"rows": 1, "counted": 1, "one_in": 1, "columns": []}},
    ],
)
def test_a_segment_with_other_columns_or_another_sample_is_refused(change: dict[str, Any]) -> None:
    document = of_rows([(None, None, "a"), (None, None, "b")]).to_dict(derived=False)
    for group in (document, *document["segments"].values()):  # so that there are no arrays
        group["columns"] = []
    ProfileSum().add(pack_document(json.loads(json.dumps(document)), []))
    document["segments"]["b"] |= change
    added = ProfileSum()
    with pytest.raises(DocumentCorrupt):
        added.add(pack_document(document, []))
    assert (added.profiles, added.columns, added.profile()) == (0, 0, Profile())


@pytest.mark.parametrize("change", [{"limit": 7}, {"limit_bytes": 7}, {"unlisted": 1}])
def test_values_that_cannot_be_merged_with_those_of_other_segments_are_refused(change: dict[str, Any]) -> None:
    document = of_rows([(None, "text", "z")]).to_dict(derived=False, describe=lambda histogram: None)
    for group in (document, *document["segments"].values()):
        group["columns"] = [column for column in group["columns"] if column["name"] == "t"]
    added = ProfileSum()
    for name in SEGMENTS[:51]:  # so that the next segment, which is the last one, is added to the others
        added.add(pack_document(document | {"segments": {name: document["segments"]["z"]}}, []))
    before = added.profile()
    document["segments"]["z"]["columns"][0]["values"] |= change
    with pytest.raises(DocumentCorrupt, match="values"):
        added.add(pack_document(document, []))
    assert (added.profiles, added.profile()) == (51, before)


def test_columns_whose_names_are_ambiguous_are_refused() -> None:
    document = Profile(rows=1, counted=1).to_dict(derived=False)
    added = ProfileSum()
    for kinds in (["feature"], ["kept"], ["feature", "feature"]):
        columns = [{"name": "x", "kind": kind, "type": "empty", "rows": 1} for kind in kinds]
        if kinds == ["feature"]:
            added.add(pack_document(document | {"columns": columns}, []))
            continue
        with pytest.raises(DocumentCorrupt, match="two columns"):
            added.add(pack_document(document | {"columns": columns}, []))
    assert (added.profiles, added.columns, added.profile().rows) == (1, 1, 1)


def test_a_stream_that_grows_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoreline.tasks.quality.profiles.footers.MAX_BYTES", 1_000)
    with pytest.raises(DocumentCorrupt, match="too large"):
        ProfileSum().add(base64.b64encode(zlib.compress(b"\0" * 10_000)).decode())


@pytest.mark.parametrize("columns", [20, 200])
def test_a_footer_is_bounded_in_size(columns: int) -> None:
    x = np.random.default_rng(1).normal(size=(20_000, columns)) * 1e3
    counts = PartCounts(features=[f"x{number}" for number in range(columns)])
    batch = pa.RecordBatch.from_arrays(list(x.T.copy()), list(counts.features))
    counts.add(batch, None, [], [("s3://bucket/object", np.arange(len(x)))])
    assert len(pack(counts.profile())) <= 1_200 * columns


def test_many_profiles_add_up_to_the_profile_of_all_rows() -> None:
    numbers = np.random.default_rng(5).lognormal(0, 4, (30, 400))
    parts = [profile_of(pa.table({"x": row})) for row in numbers]
    added = ProfileSum()
    for part in parts:
        added.add(pack(part))
    assert added.profile() == profile_of(pa.table({"x": numbers.ravel()}))
    assert added.profile().columns["x"].histogram.level < min(part.columns["x"].histogram.level for part in parts)
