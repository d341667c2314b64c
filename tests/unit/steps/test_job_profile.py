"""The profile of a job does not depend on how its input is cut, and never makes the job fail."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from scoreline.storage.errors import InvalidRequest, MissingColumns, ObjectNotFound, StoreUnavailable
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.job.part_sizes import SMALL_SLICES
from scoreline.tasks.quality.profiles import footers, number_counts, sampling
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.part_counts import PartCounts
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.steps import job_profile
from scoreline.tasks.steps.footer_metadata import FooterReader
from scoreline.testing import EagerClient, eager
from tests.support.counting_store import RequestLog

ROWS = 4_000


def made_rows() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    return pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "age": rng.integers(18, 90, ROWS),
            "income": rng.lognormal(10, 1, ROWS).round(2),
            "balance": rng.normal(0, 1e5, ROWS),
            "country": rng.choice(["de", "fr", "nl"], ROWS),
            "note": [f"note {number % 1_500}" for number in range(ROWS)],
            "member": rng.random(ROWS) < 0.5,
        }
    )


FEATURES = ["age", "income", "balance"]
DATA = made_rows()
MODEL = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(DATA[FEATURES], DATA["balance"] > 20_000)
"""Its scores do not depend on the batch. Those of linear models do in the last bit, and so do the sums of scores."""


def parquet_bytes(rows: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), sink, row_group_size=700)
    return bytes(sink.getvalue().to_pybytes())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path) as client:
        client.models.publish("risk", MODEL)
        client.buckets.main.put("in/rows.parquet", parquet_bytes(DATA))
        yield client


def document(client: EagerClient, job_id: str) -> dict[str, Any]:
    data = client.buckets.main.get(f"results/risk/job_id={job_id}/_profile.json").data
    found: dict[str, Any] = json.loads(data)
    return found


def counted(client: EagerClient, job_id: str) -> str:
    """Return the profile of a job as text, without what says how it was cut."""
    found = document(client, job_id)
    return json.dumps({name: found[name] for name in found if name not in ("job_id", "parts", "parts_covered")})


def scored(client: EagerClient, job_id: str, input: str = "s3://scoreline/in/rows.parquet", **options: Any) -> str:
    client.submit("risk", input, job_id=job_id, **options)
    outcome = read_outcome(client.buckets.main, job_id)
    assert outcome is not None
    assert outcome.state in ("succeeded", "partial"), outcome
    return counted(client, job_id)


def test_a_profile_is_the_same_however_the_input_is_cut(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"segment": "country"}
    whole = scored(client, "whole", **options)
    for part_rows in (1, 7, 333, 1_000, 2_500):
        assert scored(client, f"parts-{part_rows}", part_rows=max(part_rows, 100), **options) == whole
    # in other formats
    client.put("in/rows.csv", DATA.to_csv(index=False))
    assert scored(client, "csv", "s3://scoreline/in/rows.csv", part_rows=900, **options) == whole
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.Table.from_pandas(DATA, preserve_index=False).schema) as out:
        out.write_table(pa.Table.from_pandas(DATA, preserve_index=False), max_chunksize=650)
    client.buckets.main.put("in/rows.arrow", sink.getvalue().to_pybytes())
    assert scored(client, "arrow", "s3://scoreline/in/rows.arrow", part_rows=800, **options) == whole
    # in several objects
    for number, start in enumerate((0, 1_111, 2_222)):
        client.put(f"several/{number}.parquet", DATA[start : start + 1_111 if number < 2 else ROWS])
    assert scored(client, "several", "s3://scoreline/several/", **options) == whole
    # arranged into other files
    assert scored(client, "gathered", gather=True, part_rows=500, **options) == whole
    # without the extension
    monkeypatch.setattr(number_counts, "counts", None)
    assert scored(client, "numpy", part_rows=1_500, **options) == whole


def test_a_profile_agrees_with_the_data(client: EagerClient) -> None:
    scored(client, "j", part_rows=600)
    found = document(client, "j")
    assert (found["parts"], found["parts_covered"], found["rows"], found["counted"]) == (6, 6, ROWS, ROWS)
    profile = Profile.from_dict(found)
    kinds = {name: (column.kind, column.type) for name, column in profile.columns.items()}
    assert kinds == {
        **dict.fromkeys(FEATURES, ("feature", "number")),
        "id": ("kept", "number"),
        "country": ("kept", "text"),
        "note": ("kept", "text"),
        "member": ("kept", "boolean"),
        "prediction": ("score", "boolean"),
        "proba_False": ("score", "number"),
        "proba_True": ("score", "number"),
    }
    for name in (*FEATURES, "id"):
        assert profile.columns[name].mean == pytest.approx(DATA[name].mean())
        assert profile.columns[name].std == pytest.approx(DATA[name].std())
        assert profile.columns[name].minimum == DATA[name].min()
    assert profile.columns["country"].values.counts == DATA["country"].value_counts().to_dict()
    note = profile.columns["note"].values
    assert (note.distinct, len(note.counts), note.total) == (1_500, 200, ROWS)
    at_hand = profile_of(DATA[FEATURES])
    assert {name: profile.columns[name] for name in FEATURES} == at_hand.columns


def test_rows_are_counted_by_segment(client: EagerClient) -> None:
    scored(client, "j", segment="country", part_rows=600)
    profile = Profile.from_dict(document(client, "j"))
    assert profile.segment == "country"
    for country, rows in DATA.groupby("country"):
        segment = profile.segments[str(country)]
        assert segment.rows == len(rows)
        assert segment.columns["balance"].mean == pytest.approx(rows["balance"].mean())
        assert segment.columns["proba_True"].rows == len(rows)
    assert profile.other_segments is None


def test_segments_beyond_the_first_fifty_are_counted_together(client: EagerClient) -> None:
    whole = scored(client, "whole", segment="id")
    assert scored(client, "cut", segment="id", part_rows=300) == whole
    profile = Profile.from_dict(document(client, "whole"))
    assert list(profile.segments) == sorted(map(str, range(ROWS)))[:50]
    assert profile.other_segments is not None
    assert profile.other_segments.rows == ROWS - 50


def test_a_segment_must_be_a_kept_column(client: EagerClient) -> None:
    with pytest.raises(MissingColumns, match="'city', which is not among the kept columns"):
        client.preflight("risk", "s3://scoreline/in/rows.parquet", segment="city")
    with pytest.raises(InvalidRequest, match="needs a profile"):
        client.submit("risk", "s3://scoreline/in/rows.parquet", segment="country", profile="off")


def test_rejected_rows_are_counted_as_features_but_not_as_scores(client: EagerClient) -> None:
    rows = DATA.assign(balance=DATA["balance"].mask(DATA.index % 10 == 0))
    client.put("nulls.parquet", rows)
    one = scored(client, "one", "s3://scoreline/nulls.parquet", max_rejected="50%", segment="country")
    two = scored(client, "two", "s3://scoreline/nulls.parquet", max_rejected="50%", segment="country", part_rows=170)
    assert one == two
    profile = Profile.from_dict(document(client, "one"))
    assert profile.columns["balance"].null_share == 0.1
    assert profile.columns["proba_True"].rows == ROWS * 9 // 10
    by_segment = {name: segment.columns["proba_True"].rows for name, segment in profile.segments.items()}
    assert by_segment == rows[rows["balance"].notna()].groupby("country").size().to_dict()


def test_a_large_job_is_counted_from_a_sample(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_ROWS", 500)
    whole = scored(client, "whole", segment="country")
    assert scored(client, "cut", segment="country", part_rows=450) == whole
    found = document(client, "whole")
    assert (found["one_in"], found["rows"]) == (8, ROWS)
    assert abs(found["counted"] - 500) <= sampling.RUN_ROWS
    chosen = sampling.sampled_rows("s3://scoreline/in/rows.parquet", np.arange(ROWS), 8)
    profile = Profile.from_dict(found)
    assert {name: profile.columns[name] for name in FEATURES} == profile_of(DATA[FEATURES].iloc[chosen]).columns
    assert profile.columns["prediction"].rows == len(chosen)


def test_a_sample_has_the_scores_of_its_rows_that_are_not_rejected(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_ROWS", 1_000)
    rows = DATA.assign(balance=DATA["balance"].mask(DATA.index % 7 == 0))
    client.put("nulls.parquet", rows)
    client.submit("risk", "s3://scoreline/nulls.parquet", job_id="j", max_rejected="50%", keep=["id", "member"])
    results = client.results("j").set_index("id")
    chosen = sampling.sampled_rows("s3://scoreline/nulls.parquet", np.arange(ROWS), 4)
    profile = Profile.from_dict(document(client, "j"))
    scored = results.loc[[number for number in chosen if number % 7]]
    assert profile.columns["balance"].nulls + profile.columns["balance"].nan == len(chosen) - len(scored)
    assert profile.columns["proba_True"].rows == len(scored)
    assert profile.columns["proba_True"].mean == pytest.approx(scored["proba_True"].mean(), rel=1e-12)


@pytest.mark.parametrize("how", ["option", "setting"])
def test_a_profile_can_be_switched_off(how: str, client: EagerClient) -> None:
    with eager(client.folder, settings={"DATA_PROFILE": "false"} if how == "setting" else {}) as other:
        other.submit("risk", "s3://scoreline/in/rows.parquet", job_id="j", profile="off" if how == "option" else None)
    with pytest.raises(ObjectNotFound):
        document(client, "j")
    part = client.buckets.main.get("results/risk/job_id=j/part-00000.parquet").data
    assert footers.KEY.encode() not in pq.read_metadata(pa.BufferReader(part)).metadata


def test_the_option_overrules_the_setting(client: EagerClient) -> None:
    with eager(client.folder, settings={"DATA_PROFILE": "false"}) as other:
        scored(other, "j", profile="on")


class Damaged:
    """Changes the footers of some parts as they are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
        original = PartCounts.pack

        def pack(counts: PartCounts) -> str:
            profile = counts.profile()
            return str(change(original(counts), profile))

        monkeypatch.setattr(PartCounts, "pack", pack)


DAMAGE: dict[str, Any] = {
    "cut": lambda text, profile: text[: len(text) // 2],
    "no base64": lambda text, profile: "?" + text,
    "empty": lambda text, profile: "",
    "another sample": lambda text, profile: footers.pack(Profile.from_dict(profile.to_dict() | {"one_in": 3})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_profile_is_skipped_with_a_warning(
    damage: str, client: EagerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[Profile] = []

    def change(text: str, profile: Profile) -> str:
        parts.append(profile)
        return str(DAMAGE[damage](text, profile)) if len(parts) == 2 else text

    Damaged(monkeypatch, change)
    with caplog.at_level(logging.WARNING):
        scored(client, "j", part_rows=1_000)
    found = document(client, "j")
    assert (found["parts"], found["parts_covered"]) == (6, 5)
    assert found["rows"] == ROWS - parts[1].rows
    assert found["rows_planned"] == ROWS
    (warned,) = [record for record in caplog.records if record.message == "profile.skipped"]
    assert "part-00001.parquet" in warned.error  # type: ignore[attr-defined]


def test_parts_of_an_earlier_release_have_no_profile(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    original = job_profile.PartProfile.footer
    written: list[int] = []

    def footer(self: job_profile.PartProfile) -> dict[str, str]:
        written.append(1)
        return original(self) if len(written) > 1 else {}

    monkeypatch.setattr(job_profile.PartProfile, "footer", footer)
    scored(client, "j", part_rows=1_000)
    found = document(client, "j")
    assert (found["parts"], found["parts_covered"], found["rows_planned"]) == (6, 5, ROWS)
    assert found["rows"] < ROWS


def test_a_fault_in_counting_costs_the_profile_and_not_the_job(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("scoreline.tasks.quality.profiles.part_counts.PartCounts.add", broken)
    with caplog.at_level(logging.WARNING):
        client.submit("risk", "s3://scoreline/in/rows.parquet", job_id="j")
    outcome = read_outcome(client.buckets.main, "j")
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert "profile.failed" in caplog.messages


def test_each_part_costs_one_ranged_read_and_the_job_one_write(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, bool]] = []
    written: list[str] = []
    get, put = DirectoryStore.get, DirectoryStore.put

    def counted_get(self: Any, key: str, **options: Any) -> Any:
        read.append((key, options.get("byte_range") is not None))
        return get(self, key, **options)

    def counted_put(self: Any, key: str, *arguments: Any, **options: Any) -> Any:
        written.append(key)
        return put(self, key, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "get", counted_get)
    monkeypatch.setattr(DirectoryStore, "put", counted_put)
    for profile in ("off", "on"):
        client.submit("risk", "s3://scoreline/in/rows.parquet", job_id=profile, profile=profile, part_rows=500)
    parts = sorted(item for item in read if item[0].startswith("results/") and "/part-" in item[0])
    first, *others = [(f"results/risk/job_id=on/part-{number:05}.parquet", True) for number in range(6)]
    assert parts == [first, first, *others]  # the report names the libraries in the footer of the first part
    folder = "results/risk/job_id="
    names = {
        job: sorted(key.removeprefix(folder + job) for key in written if folder + job in key) for job in ("on", "off")
    }
    assert names["on"] == sorted([*names["off"], "/_profile.json", "/_report.html"])


def test_many_columns_and_segments_are_merged_from_fewer_parts(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_profile, "MAX_COLUMNS", 60)
    covered = {}
    for segment in (None, "country"):
        scored(client, f"by-{segment}", keep="country", segment=segment, part_rows=500)
        found = document(client, f"by-{segment}")
        covered[segment] = found["parts"], found["parts_covered"]
    # Seven columns, and the same of each of three countries, of which the country itself is not one
    assert covered == {None: (6, 6), "country": (6, 2)}


def test_few_records_have_no_profile(client: EagerClient) -> None:
    client.submit_records("risk", DATA[FEATURES][:50], job_id="few")
    client.submit_records("risk", DATA[FEATURES], job_id="many")
    with pytest.raises(ObjectNotFound):
        document(client, "few")


def test_the_footer_of_a_part_with_many_small_objects_is_read_with_one_request(tmp_path: Path) -> None:
    store = RequestLog(tmp_path, "b")
    source = [[f"in/year=2026/{number:05}.parquet", f"{number:032x}", 0, 200] for number in range(SMALL_SLICES)]
    schema = pa.schema([("id", pa.int64())], metadata={"scoreline.source": json.dumps(source)})
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(range(50_000))}, schema), sink, compression="none")
    store.put("part", sink.getvalue())
    store.requests.clear()
    assert json.loads(FooterReader(store).read("part", len(sink.getvalue()))["scoreline.source"]) == source
    assert store.requests == [("get", "part")]


def test_an_unavailable_store_makes_finalize_try_again(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    original = FooterReader.read
    calls: list[str] = []

    def read(self: FooterReader, key: str, size: int) -> dict[str, str]:
        calls.append(key)
        if len(calls) == 1:
            raise StoreUnavailable("the store does not answer")
        return original(self, key, size)

    monkeypatch.setattr(FooterReader, "read", read)
    with pytest.raises(StoreUnavailable):
        client.submit("risk", "s3://scoreline/in/rows.parquet", job_id="j")
    assert read_outcome(client.buckets.main, "j") is None
