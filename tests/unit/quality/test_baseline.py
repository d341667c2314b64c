"""A baseline fits into an attachment, however many features it has, and identifies no row of the training data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest
from scoreline.storage.models.attachments import MAX_ATTACHMENT_BYTES
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.counting import profile_of

RNG = np.random.default_rng(0)


def of_table(columns: Mapping[str, Any], *hidden: str) -> Baseline:
    return Baseline(profile=profile_of(pa.table(columns)), hidden=hidden)


def baseline(**columns: Any) -> Baseline:
    return of_table(columns)


def decoded(made: Baseline) -> Baseline:
    return Baseline.decode(made.encode())


def test_a_small_baseline_is_kept_to_the_bit() -> None:
    made = baseline(age=[30, 41, None], plan=["pro", "basic", "pro"], paid=[True, None, False])
    read = decoded(made)
    assert read.profile == made.profile
    assert made.encode() == decoded(made).encode()


def test_a_baseline_of_200_features_fits_into_an_attachment() -> None:
    # Given 200 features of random numbers and texts, which do not compress
    numbers: dict[str, Any] = {f"number_{n}": RNG.lognormal(size=4_000) for n in range(150)}
    texts: dict[str, Any] = {f"text_{n}": [f"value {k} of {n}" for k in RNG.integers(0, 190, 4_000)] for n in range(50)}
    made = of_table(numbers | texts)
    data = made.encode()
    assert len(data) <= MAX_ATTACHMENT_BYTES
    # Then counts, moments and the range are kept, and enough buckets to compare distributions with
    read = Baseline.decode(data)
    assert read.profile.columns["number_7"].mean == made.profile.columns["number_7"].mean
    assert read.profile.columns["number_7"].maximum == made.profile.columns["number_7"].maximum
    assert len(read.profile.columns["number_7"].histogram.counts) >= 16
    assert read.profile.columns["number_7"].histogram.total == 4_000
    assert len(read.profile.columns["text_7"].values.counts) >= 20
    assert read.profile.columns["text_7"].values.distinct == 190
    assert read.buckets < 512


def test_a_coarser_histogram_has_the_counts_that_its_values_would_have() -> None:
    values = RNG.normal(size=5_000)
    made = of_table({f"x{n}": values * (n + 1) for n in range(200)})
    read = decoded(made).profile.columns["x0"].histogram
    whole = made.profile.columns["x0"].histogram
    assert read.level < whole.level
    for bucket, count in read.counts.items():
        low, high = read.edges(bucket)
        inside = values[(values >= low) & (values < high) if bucket > 0 else (values > low) & (values <= high)]
        assert count == len(inside)


def test_a_baseline_of_too_many_features_is_refused() -> None:
    names = RNG.integers(0, 1 << 62, 4_000)
    with pytest.raises(InvalidRequest, match=r"of 4,000 columns has .* at most 100,000: publish without a baseline"):
        of_table({f"{name:x}": [float(name), 1 / name] for name in names}).encode()


def test_rare_values_of_a_column_with_many_values_are_not_kept() -> None:
    # Given names, of which one belongs to ten rows
    made = baseline(name=[f"person {n}" for n in range(1_000)] + ["Mister Ten"] * 10, plan=["a", "b"] * 505)
    text = gzip.decompress(made.encode()).decode()
    assert "Mister Ten" in text
    assert "person" not in text
    read = decoded(made).profile.columns
    assert (read["name"].values.distinct, read["plan"].values.top(2)) == (1_001, [("a", 505), ("b", 505)])


def test_no_value_of_a_hidden_column_is_kept() -> None:
    rows = {"city": ["Ulm", "Bonn"] * 10, "income": [30_123.0, 41_456.0] * 10, "age": [1, 2] * 10}
    made = of_table(rows, "city", "income")
    text = gzip.decompress(made.encode()).decode()
    for value in ("Ulm", "Bonn", "30123", "41456"):
        assert value not in text
    read = decoded(made)
    assert read.hidden == ("city", "income")
    assert read.profile.columns["income"].mean == 35_789.5
    assert read.profile.columns["income"].std == made.profile.columns["income"].std
    assert (read.profile.columns["city"].rows, read.profile.columns["city"].values.distinct) == (20, 2)
    assert len(read.profile.columns["income"].histogram.counts) == 1  # all positive numbers
    assert read.profile.columns["age"].histogram == made.profile.columns["age"].histogram


def _packed(change: Any) -> bytes:
    raw = json.loads(gzip.decompress(baseline(age=[1, 2]).encode()))
    change(raw)
    return gzip.compress(json.dumps(raw).encode(), mtime=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged"),
        (b"no gzip", "is damaged"),
        (baseline(age=[1, 2]).encode()[:-9], "is damaged: .*cut off"),
        (gzip.compress(b"[]", mtime=0), "is damaged"),
        (gzip.compress(b"{}", mtime=0), "is damaged"),
        (gzip.compress(b" " * (33 << 20), mtime=0), "is damaged: .*too large"),
        (_packed(lambda raw: raw.update(format=2)), "has format 2, but this release reads format 1: upgrade"),
        (_packed(lambda raw: raw.update(rejected="x")), "rejected is a text"),
        (_packed(lambda raw: raw.update(columns=5)), "is damaged"),
        (_packed(lambda raw: raw["columns"][0].update(rows=-1)), "is damaged"),
    ],
)
def test_a_damaged_baseline_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DocumentCorrupt, match=f"the baseline of m@1 {message}|{message}"):
        Baseline.decode(data, "the baseline of m@1")
