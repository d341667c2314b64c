"""Rows of result files, traced back to their input rows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ResultsDamaged
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.quality.trace import row_origins
from scoreline.tasks.steps import arrange, folders
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import BLOCKS, OUTPUT, WARNS, Gated

FILE = "s3://scoreline/out/job_id=j/part-00000.parquet"


@pytest.fixture
def client(jobs: Gated) -> Client:
    return Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")


def put(jobs: Gated, name: str, ids: range, broken: tuple[int, ...] = ()) -> str:
    """Store an object whose rows have these ids, and return its URI; rows with the ids `broken` cannot be scored."""
    x = [np.nan if number in broken else float(number) for number in ids]
    days = ["abc"[number % 3] for number in ids]
    frame = pd.DataFrame({"id": list(ids), "x": x, "day": days})
    if name.endswith(".parquet"):
        return jobs.client.put(name, frame)
    text = frame.to_csv(index=False) if name.endswith(".csv") else frame.to_json(orient="records", lines=True)
    jobs.main.put(name, text.encode())
    return jobs.main.uri(name)


def run(jobs: Gated, inputs: list[str], job_id: str = "j", **options: Any) -> None:
    """Run a job whose parts take at most 10 rows, in the order of the plan."""
    given: dict[str, Any] = {"part_rows": 10, "job_id": job_id, "output": OUTPUT, "max_rejected": "100%"} | options
    jobs.client.submit("line", inputs, **given)
    plan_job(jobs.at.engine, job_id)
    plan = jobs.at.engine.documents(job_id).plan
    jobs.at.score(job_id, *range(plan.parts))
    jobs.finalize(job_id)


def files(jobs: Gated, folder: str = "out/job_id=j/") -> Iterator[tuple[str, pd.DataFrame]]:
    for info in jobs.main.list(folder):
        name = info.key.removeprefix(folder)
        if name.endswith(".parquet") and not name.startswith("_parts"):
            source = io.BytesIO(jobs.main.get(info.key).data)
            yield jobs.main.uri(info.key), pq.ParquetFile(source).read().to_pandas()


def check_all(jobs: Gated, client: Client, job_id: str = "j") -> int:
    """Trace every row of every file of a job, and check that the input row has the id of the result."""
    count = 0
    for uri, frame in files(jobs, f"out/job_id={job_id}/"):
        for row in range(len(frame)):
            found = client.trace(uri, row, show=True)
            assert found.input_values is not None, found.notes
            assert found.input_values["id"] == found.values["id"] == frame["id"][row]
            assert found.rejected == ("/_rejected/" in uri)
            assert found.input_state == "unchanged"
            assert found.etag == jobs.main.head(found.input.removeprefix("s3://scoreline/")).etag
            count += 1
    return count


def test_a_row_is_traced_to_its_object_its_model_and_who_accepted_it(jobs: Gated, client: Client) -> None:
    jobs.run("j", WARNS)
    found = client.trace("s3://scoreline/out/job_id=j/part-00002.parquet", 3, show=True)
    assert (found.job_id, found.part, found.input, found.input_row) == ("j", 2, "s3://scoreline/in/a.parquet", 23)
    assert found.values == {"id": 23, "prediction": pytest.approx(47.0)}
    assert found.input_values == {"x": 23.0, "id": 23}
    assert not found.rejected
    job = read_job(jobs.main, "j")
    assert (found.model.ref, found.model.manifest_sha256) == (job.model.ref, job.model.manifest_sha256)
    assert found.model.signature == "not checked"
    assert set(found.libraries) >= {"numpy", "scikit-learn", "pyarrow"}
    lineage = found.lineage
    assert lineage is not None
    assert lineage.checks is not None
    assert [finding.check for finding in lineage.checks.findings] == ["nulls"]
    assert (lineage.acceptance.decision, lineage.acceptance.who, lineage.acceptance.is_latest) == (
        "accepted",
        "checks",
        True,
    )
    assert json.loads(json.dumps(found.to_dict()))["lineage"]["state"] == "succeeded"


def test_a_person_who_accepted_or_withdrew_a_run_is_named(jobs: Gated, client: Client) -> None:
    jobs.run("j", BLOCKS)
    lineage = client.trace(FILE, 0).lineage
    assert lineage is not None
    assert (lineage.acceptance.decision, lineage.acceptance.reason) == ("blocked", "half of the rows are missing")
    client.accept("j", "a holiday")
    lineage = client.trace(FILE, 0).lineage
    assert lineage is not None
    assert (lineage.acceptance.decision, lineage.acceptance.who, lineage.acceptance.reason) == (
        "accepted",
        "alice",
        "a holiday",
    )
    client.reject("j", "no holiday")
    lineage = client.trace(FILE, 0).lineage
    assert lineage is not None
    assert (lineage.acceptance.decision, lineage.acceptance.is_latest) == ("withdrawn", False)


OF_FILES = [
    {},
    {"gather": True},
    {"partition_by": "day"},
]


@pytest.mark.parametrize("options", OF_FILES, ids=["parts", "gathered", "partitioned"])
def test_every_row_of_small_and_large_objects_is_traced_exactly(
    jobs: Gated, client: Client, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "FILE_ROWS", 9)
    inputs = [
        put(jobs, "in/1.parquet", range(3), (1,)),
        put(jobs, "in/2.csv", range(100, 104)),
        put(jobs, "in/3.jsonl", range(200, 235), (205, 206, 212)),
        put(jobs, "in/4.parquet", range(300, 302), (300, 301)),
        put(jobs, "in/5.parquet", range(400, 425), (400, 424)),
    ]
    run(jobs, inputs, **options)
    plan = jobs.at.engine.documents("j").plan
    assert any(len(part.slices) > 1 for part in plan)
    assert check_all(jobs, client) == 69
    assert len(list(files(jobs))) > 5


@pytest.mark.parametrize("options", OF_FILES[1:], ids=["gathered", "partitioned"])
def test_rows_of_a_part_of_several_batches_are_traced_in_arranged_files(
    jobs: Gated, client: Client, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrange, "_BATCH_ROWS", 4)
    monkeypatch.setattr(arrange, "_PENDING_BYTES", 300)
    run(jobs, [put(jobs, "in/a.csv", range(40), (3, 21))], part_rows=20, **options)
    assert check_all(jobs, client) == 40


def test_the_rows_of_one_row_group_that_several_parts_share_are_told_apart(jobs: Gated, client: Client) -> None:
    run(jobs, [put(jobs, "in/a.parquet", range(37), (8, 9, 10, 11, 36))])
    assert jobs.at.engine.documents("j").plan.parts > 3
    assert check_all(jobs, client) == 37


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_job_that_scores_rejected_rows_again_is_traced_to_the_first_objects(
    jobs: Gated, client: Client, suffix: str
) -> None:
    run(jobs, [put(jobs, f"in/a.{suffix}", range(30), (3, 4, 17, 29)), put(jobs, "in/b.csv", range(50, 60), (55,))])
    filled = make_pipeline(SimpleImputer(), LinearRegression()).fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0])
    jobs.client.models.publish("line", filled)
    again = client.resume_rejected("j", max_rejected="100%").job_id
    plan_job(jobs.at.engine, again)
    jobs.at.score(again, *range(jobs.at.engine.documents(again).plan.parts))
    jobs.finalize(again)
    assert check_all(jobs, client, again) == 5
    (found,) = client.trace_key(again, {"id": "17"})
    assert (found.input_row, found.rejected) == (17, False)
    assert found.lineage is not None
    assert found.lineage.rejected_of == "j"


def test_rows_are_found_by_key_in_a_file_a_job_and_an_output(jobs: Gated, client: Client) -> None:
    run(jobs, [put(jobs, "in/a.parquet", range(30), (7,))])
    for target in ("j", OUTPUT, OUTPUT[:-1], f"{OUTPUT}latest.json", f"{OUTPUT}job_id=j"):
        (found,) = client.trace_key(target, {"id": "23"})
        assert (found.input_row, found.row, found.rejected) == (23, 3, False)
        (found,) = client.trace_key(target, {"id": "7"})
        assert (found.input_row, found.rejected) == (7, True)
        assert not client.trace_key(target, {"id": "99"})
    assert [found.input_row for found in client.trace_key(FILE, {"id": "3"})] == [3]
    assert len(client.trace_key("j", {"day": "a"})) == 10
    assert [found.input_row for found in client.trace_key("j", {"day": "a", "id": "3"})] == [3]
    with pytest.raises(InvalidRequest, match=r"has no column 'name': it has 'id', 'day', 'prediction'"):
        client.trace_key("j", {"name": "x"})
    with pytest.raises(InvalidRequest, match=r"no run of s3://scoreline/other/ is accepted"):
        client.trace_key("s3://scoreline/other/", {"id": "1"})


def test_the_parts_of_a_job_under_way_are_searched(jobs: Gated, client: Client) -> None:
    jobs.at.plan(job_id="j", output=OUTPUT)
    jobs.at.score("j", 2)
    (found,) = client.trace_key("j", {"id": "21"})
    assert (found.part, found.input_row) == (2, 21)
    assert found.lineage is not None
    assert (found.lineage.state, found.lineage.acceptance.decision) == ("running", "not published")
    assert not client.trace_key("j", {"id": "1"})


def change_input(jobs: Gated) -> None:
    put(jobs, "in/a.parquet", range(41))


def delete_input(jobs: Gated) -> None:
    jobs.main.delete("in/a.parquet")


@pytest.mark.parametrize(("harm", "state"), [(change_input, "changed"), (delete_input, "gone")])
def test_an_object_that_has_changed_is_still_named_but_not_shown(
    jobs: Gated, client: Client, harm: Callable[[Gated], None], state: str
) -> None:
    jobs.run("j")
    etag = jobs.main.head("in/a.parquet").etag
    harm(jobs)
    found = client.trace(FILE, 4, show=True)
    assert (found.input_row, found.etag, found.input_state, found.input_values) == (4, etag, state, None)
    assert found.notes == ("the input row cannot be shown, because its object has changed",)


def test_rows_that_could_not_be_decoded_are_shown_as_they_were_written(jobs: Gated, client: Client) -> None:
    jobs.main.put("in/a.jsonl", b'{"id": 1, "x": 1}\n{"id": 2, "x": \n{"id": 3, "x": 3}\n')
    run(jobs, ["s3://scoreline/in/a.jsonl"])
    (rejected,) = [uri for uri, _ in files(jobs) if "/_rejected/" in uri]
    found = client.trace(rejected, 0, show=True)
    assert found.input_row == 1
    assert found.input_values is not None
    assert found.input_values["raw"] == '{"id": 2, "x": '
    assert client.trace(FILE, 1, show=True).input_values == {"x": 3, "id": 3}


def test_records_are_traced_to_their_number(jobs: Gated, client: Client) -> None:
    job = jobs.client.submit_records(
        "line", [{"x": 1.0, "id": 10}, {"x": None, "id": 11}, {"x": 3.0, "id": 12}], max_rejected=1
    )
    job_id = job.job_id
    plan_job(jobs.at.engine, job_id)
    jobs.at.score(job_id, 0)
    jobs.finalize(job_id)
    (found,) = client.trace_key(job_id, {"id": "12"}, show=True)
    assert found.input_row == 2
    assert keys.is_records(found.input.removeprefix("s3://scoreline/"))
    assert found.input_values is not None
    assert found.input_values["id"] == 12
    assert found.lineage is not None
    assert found.lineage.acceptance.decision == "not published"


def download(jobs: Gated, folder: Path, key: str = "out/job_id=j/part-00000.parquet") -> str:
    path = folder / Path(key).name
    path.write_bytes(jobs.main.get(key).data)
    return str(path)


def test_a_copy_on_this_computer_is_compared_with_the_file_of_the_job(
    jobs: Gated, client: Client, tmp_path: Path
) -> None:
    jobs.run("j")
    copy = download(jobs, tmp_path)
    found = client.trace(copy, 5)
    assert (found.input_row, found.copy) == (5, "as written")
    table = pq.read_table(copy)
    changed = table.set_column(
        1, "prediction", pq.read_table(copy)["prediction"].combine_chunks().take(pa.array(range(9, -1, -1)))
    )
    pq.write_table(changed, copy)
    assert client.trace(copy, 5).copy == "other"
    pq.write_table(table.replace_schema_metadata(None), copy)
    with pytest.raises(InvalidRequest, match="has no footer of Scoreline"):
        client.trace(copy, 5)
    pq.write_table(table.slice(0, 7), copy)
    with pytest.raises(ResultsDamaged, match=r"has 7 rows, but its job scored 10 rows in part 0"):
        client.trace(copy, 5)


def forget(jobs: Gated) -> None:
    for info in list(jobs.main.list("jobs/j/")):
        jobs.main.delete(info.key)


def remove(jobs: Gated) -> None:
    job = read_job(jobs.main, "j")
    forget(jobs)
    jobs.main.put(
        "jobs/j/job.json",
        Tombstone(
            job_id="j",
            state="succeeded",
            why="results are kept for 30 days",
            at="2026-11-29T00:00:00+00:00",
            model=job.model.ref,
            output=OUTPUT,
            submitted=job.submitted,
        ).to_json(),
    )


def submit_again(jobs: Gated) -> None:
    forget(jobs)
    jobs.main.delete("out/job_id=j/_SUCCESS")
    jobs.at.plan(job_id="j", output="s3://scoreline/elsewhere/")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (forget, "has no documents of job j"),
        (remove, "results are kept for 30 days"),
        (submit_again, "is another job with the same id"),
    ],
)
def test_the_footer_is_enough_for_a_part_without_rejects(
    jobs: Gated, client: Client, tmp_path: Path, harm: Callable[[Gated], None], says: str
) -> None:
    jobs.run("j")
    copy = download(jobs, tmp_path, "out/job_id=j/part-00001.parquet")
    model = read_job(jobs.main, "j").model
    harm(jobs)
    found = client.trace(copy, 5, show=True)
    assert (found.input, found.input_row, found.part, found.lineage) == ("in/a.parquet", 15, 1, None)
    assert (found.model.ref, found.model.manifest_sha256) == (model.ref, model.manifest_sha256)
    assert says in found.notes[0]
    assert found.notes[-1] == "the input row cannot be shown, because it is not known"


def test_without_documents_a_part_with_rejects_is_traced_to_its_object(
    jobs: Gated, client: Client, tmp_path: Path
) -> None:
    run(jobs, [put(jobs, "in/a.parquet", range(30), (7,))])
    copy = download(jobs, tmp_path)
    forget(jobs)
    found = client.trace(copy, 8)
    assert (found.input, found.input_row) == ("in/a.parquet", None)
    assert "which rows of the part were rejected" in found.notes[-1]


def test_a_file_of_release_0_1_0_is_traced_by_the_documents_of_its_job(
    jobs: Gated, client: Client, tmp_path: Path
) -> None:
    run(jobs, [put(jobs, "in/a.parquet", range(30), (7,))])
    copy = download(jobs, tmp_path)
    table = pq.read_table(copy)
    metadata = dict(table.schema.metadata)
    metadata[b"scoreline.scored_at"] = metadata.pop(b"scoreline.submitted_at")
    pq.write_table(table.replace_schema_metadata(metadata), copy)
    found = client.trace(copy, 8)
    assert (found.input, found.input_row, found.notes) == ("s3://scoreline/in/a.parquet", 9, ())
    assert found.lineage is not None


def test_scores_of_the_challenger_are_traced_to_its_version(jobs: Gated, client: Client, tmp_path: Path) -> None:
    other = jobs.client.models.publish("other", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [5.0, 9.0]))
    run(jobs, [put(jobs, "in/a.parquet", range(30), (7,))], challenger="other")
    key = "out/job_id=j/_challenger/part-00000.parquet"
    for name in (jobs.main.uri(key), download(jobs, tmp_path, key)):
        found = client.trace(name, 8)
        assert (found.input, found.input_row, found.copy) == ("s3://scoreline/in/a.parquet", 9, "")
        assert (found.values["id"], found.model.ref) == (9, other.ref)
        assert found.lineage is not None
        assert found.lineage.model.ref.startswith("line@")
        assert "the challenger of the job gave these scores" in found.notes[-1]


def without_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrange files as earlier releases did."""
    monkeypatch.setattr(row_origins, "FIELD", "scoreline.other")


def test_gathered_files_of_earlier_releases_are_traced_by_the_manifest(
    jobs: Gated, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "FILE_ROWS", 9)
    without_origins(monkeypatch)
    run(jobs, [put(jobs, "in/a.csv", range(37), (1, 2, 20)), put(jobs, "in/b.csv", range(50, 60))], gather=True)
    assert check_all(jobs, client) == 47


def test_partitioned_files_of_earlier_releases_are_traced_to_their_job(
    jobs: Gated, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_origins(monkeypatch)
    run(jobs, [put(jobs, "in/a.csv", range(37))], partition_by="day")
    found = client.trace("s3://scoreline/out/job_id=j/day=a/part-00000.parquet", 3)
    assert (found.job_id, found.input, found.input_row) == ("j", "", None)
    assert found.notes == ("an earlier release arranged this file, and did not record where its rows come from",)
    assert found.lineage is not None


@pytest.mark.parametrize(
    ("file", "row", "says"),
    [
        (FILE, 10, r"has no row 10: it has 10 rows, numbered from 0, so the last one is 9"),
        ("s3://scoreline/out/none.parquet", 0, "there is no object"),
        ("nowhere.parquet", 0, "there is no file nowhere.parquet"),
        ("s3://scoreline/in/a.parquet", 0, "has no footer of Scoreline"),
        ("s3://scoreline/out/latest.json", 0, "is not a result file: it cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_what_to_name(
    jobs: Gated, client: Client, file: str, row: int, says: str
) -> None:
    jobs.run("j")
    with pytest.raises(InvalidRequest, match=says):
        client.trace(file, row)


def test_a_damaged_footer_is_named(jobs: Gated, client: Client, tmp_path: Path) -> None:
    run(jobs, [put(jobs, "in/a.csv", range(37))], gather=True)
    copy = download(jobs, tmp_path)
    table = pq.read_table(copy)
    for text, says in [
        ("{", "does not say where its rows come from"),
        ('{"parts": [[0, 5]], "gaps": "eJwDAAAAAAE="}', "says where 0 rows come from, not row 3"),
    ]:
        writer = pq.ParquetWriter(copy, table.schema)
        writer.write_table(table)
        writer.add_key_value_metadata({"scoreline.rows": text})
        writer.close()
        with pytest.raises(ResultsDamaged, match=says):
            client.trace(copy, 3)
