"""A job with a challenger has the results that it has without one, and the challenger's beside them."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression

from scoreline.storage.errors import InvalidRequest, ModelInUse, ModelNotFound, ModelUnloadable, StoreUnavailable
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Job, read_job, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.quality.challengers.comparison import Comparison, read_comparison
from scoreline.tasks.quality.challengers.joint_histograms import JointHistogram
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import merge_comparison, part_challenger
from scoreline.tasks.steps.challenger_limits import limited, load_beside
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli
from tests.support.challengers import LARGE, LOADABLE, Troubled, Unloadable

ROWS, PART_ROWS = 600, 200


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path) as client:
        publish(client, "champion", Troubled())
        yield client


def rows(columns: str = "a") -> pd.DataFrame:
    """Return rows whose part 1 has one large value, and one value that the champion rejects, too."""
    chance = np.random.default_rng(3)
    frame = pd.DataFrame({name: chance.normal(size=ROWS) for name in columns})
    frame.loc[[PART_ROWS + 7], "a"] = 2 * LARGE
    frame["id"] = np.arange(ROWS)
    frame["region"] = np.where(frame["a"] > 0.5, "north", "south")
    return frame


def publish(client: EagerClient, name: str, model: Any, columns: str = "a") -> str:
    fitted = model.fit(pd.DataFrame({column: [0.0, 1.0] for column in columns}), ["no", "yes"])
    return client.models.publish(name, fitted).ref


def submit(client: EagerClient, job_id: str, challenger: str | None = None, **options: Any) -> Job:
    given: dict[str, Any] = {"keep": "id,region", "part_rows": PART_ROWS, "challenger": challenger} | options
    client.submit("champion", "s3://scoreline/in/", job_id=job_id, **given)
    return read_job(client.buckets.main, job_id)


def put(client: EagerClient, frame: pd.DataFrame | None = None) -> None:
    sink = io.BytesIO()
    table = pa.Table.from_pandas(rows() if frame is None else frame, preserve_index=False)
    pq.write_table(table, sink, row_group_size=PART_ROWS)
    client.put("in/rows.parquet", sink.getvalue())


def listed(client: EagerClient, job: Job, folder: str = "") -> dict[str, Any]:
    """Return the tables of a job below a folder, by name."""
    layout = ResultsLayout.of(client.buckets, job)
    prefix = f"{layout.folder}{folder}"
    names = [info.key for info in layout.store.list(prefix) if "/" not in info.key.removeprefix(prefix)]
    return {
        key.removeprefix(prefix): pq.read_table(io.BytesIO(layout.store.get(key).data))
        for key in names
        if key.endswith(".parquet")
    }


def compared(client: EagerClient, job: Job) -> Comparison:
    found = read_comparison(client.buckets.main, job)
    assert found is not None
    return found


def assert_unharmed(client: EagerClient, job: Job, alone: Job) -> None:
    """Check that a job has the results, rejected rows and outcome of one without a challenger."""
    assert listed(client, job) == listed(client, alone)
    rejected, expected = (list(listed(client, item, "_rejected/").values()) for item in (job, alone))
    assert [table.replace_schema_metadata(None) for table in rejected] == [
        table.replace_schema_metadata(None) for table in expected
    ]
    one, other = (read_outcome(client.buckets.main, item.spec.job_id) for item in (job, alone))
    assert one is not None
    assert other is not None
    fields = ("state", "rows", "rejected", "parts", "parts_done", "error", "failures", "checks")
    assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]


def test_both_versions_score_the_same_rows(client: EagerClient) -> None:
    # Given a challenger that flips the rows between 0 and 0.5, all of them in the south
    put(client)
    challenger = publish(client, "other", Troubled(above=0.5))
    alone = submit(client, "alone", segment="region")
    # When both score them
    job = submit(client, "j", "other", segment="region")
    # Then the version of the challenger is pinned
    assert job.challenger is not None
    assert job.challenger.ref == challenger
    # And the status names it
    assert client.status("j").to_dict()["challenger"] == challenger
    assert "challenger" not in client.status("alone").to_dict()
    # And row i of its results is row i of the job's
    assert_unharmed(client, job, alone)
    own, its = listed(client, job), listed(client, job, "_challenger/")
    assert own.keys() == its.keys() == {f"part-{number:05}.parquet" for number in range(3)}
    for name in own:
        assert its[name].column("id") == own[name].column("id")
        assert its[name].schema.names == own[name].schema.names
    # And its footer names its version
    metadata = its["part-00000.parquet"].schema.metadata
    assert metadata[b"scoreline.model_version"].decode() == job.challenger.version
    assert metadata[b"scoreline.manifest_sha256"].decode() == job.challenger.manifest_sha256
    # And the comparison counts what the rows say
    frame = rows()
    flips = int(((frame["a"] > 0) & (frame["a"] <= 0.5)).sum())
    found = compared(client, job)
    assert (found.rows, found.parts, found.failed_parts, found.failures) == (ROWS, 3, 0, ())
    labels = found.labels["prediction"]
    assert labels.flips == flips == labels.pairs["yes", "no"]
    assert labels.flips_by_class == {
        "no": (int((frame["a"] <= 0).sum()), 0),
        "yes": (int((frame["a"] > 0).sum()), flips),
    }
    assert {name: dict(item.flips) for name, item in found.segments.items()} == {
        "north": {"prediction": 0},
        "south": {"prediction": flips},
    }
    proba = [pa.concat_tables(tables.values()).column("proba_yes").to_numpy() for tables in (own, its)]
    scores = found.scores["proba_yes"]
    assert scores.mean_difference == pytest.approx(float((proba[1] - proba[0]).mean()))
    assert scores.rank_correlation == pytest.approx(1.0, abs=0.001)
    assert scores.joint.probabilities
    assert scores.largest == float(abs(proba[1] - proba[0]).max())
    assert (found.champion_us, found.challenger_us) > (0, 0)
    # And no reader takes the challenger's files for results
    assert len(client.results("j")) == ROWS


def test_segments_of_rows_of_several_objects_are_compared(client: EagerClient) -> None:
    # Given small objects, whose rows share batches, and a row that the challenger cannot score
    publish(client, "other", LogisticRegression())
    frame = rows()
    frame.loc[[3], "a"] = None
    for number in range(3):
        piece = frame[number * PART_ROWS : (number + 1) * PART_ROWS]
        client.put(f"in/{number}.parquet", piece.to_parquet(index=False))
    # When a job with a segment has a challenger
    job = submit(client, "j", "other", segment="region", part_rows=None)
    # Then the challenger scores all parts, and the rows of all segments are compared
    found = compared(client, job)
    assert (found.failed_parts, found.rows) == (0, ROWS - 1)
    assert {name: item.rows for name, item in found.segments.items()} == {
        name: int(count) for name, count in frame.dropna()["region"].value_counts().items()
    }


def test_the_comparison_does_not_depend_on_the_parts(client: EagerClient) -> None:
    put(client)
    publish(client, "other", LogisticRegression())
    found = [
        compared(client, submit(client, f"j-{part_rows}", "other", part_rows=part_rows, segment="region"))
        for part_rows in (PART_ROWS, ROWS)
    ]
    kept = [item.to_dict() for item in found]
    for document in kept:
        for name in ("parts", "champion_us", "challenger_us", "champion_seconds_per_row", "challenger_seconds_per_row"):
            del document[name]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("memory", "MemoryError: no memory left"),
        ("hang", "it is too slow: it takes more than 0.2 s"),
        ("swallow", "it is too slow: it takes more than 0.2 s"),
        ("types", "object"),
        ("system", "no space left on device"),
    ],
)
def test_a_challenger_that_fails_in_a_part_does_not_harm_it(
    trouble: Any, reason: str, client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_challenger, "PART_S", 0.2)
    put(client)
    publish(client, "other", Troubled(trouble))
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    found = compared(client, job)
    assert reason in next(failure.reason for failure in found.failures if failure.part == 1)
    assert "part-00001.parquet" not in listed(client, job, "_challenger/")
    # After some failures, the challenger is not tried again by the same process; a part before is compared
    assert (found.parts, found.failed_parts) in ((2, 1), (1, 2))
    assert found.rows == found.parts * PART_ROWS


@pytest.mark.parametrize("trouble", ["row", "exit", "interrupt"])
def test_a_row_that_the_challenger_cannot_score_has_no_score(trouble: Any, client: EagerClient) -> None:
    put(client)
    publish(client, "other", Troubled(trouble))
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    table = listed(client, job, "_challenger/")["part-00001.parquet"]
    missing = [row["id"] for row in table.to_pylist() if row["prediction"] is None]
    assert missing == [PART_ROWS + 7]
    found = compared(client, job)
    assert (found.rows, found.champion_only, found.parts, found.failed_parts) == (ROWS - 1, 1, 3, 0)
    (failure,) = found.failures
    assert (failure.part, failure.rows) == (1, 1)
    assert "rows.parquet" in failure.reason


def test_a_challenger_may_score_rows_that_the_job_rejects(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        publish(client, "champion", Troubled("row"))
        publish(client, "other", Troubled())
        put(client)
        job = submit(client, "j", "other", max_rejected="1")
        assert_unharmed(client, job, submit(client, "alone", max_rejected="1"))
        found = compared(client, job)
        assert (found.rows, found.champion_only, found.challenger_only) == (ROWS - 1, 0, 1)
        tables = listed(client, job, "_challenger/")
        assert [table.num_rows for table in tables.values()] == [PART_ROWS, PART_ROWS - 1, PART_ROWS]


def test_a_batch_that_is_too_large_for_the_challenger_is_scored_in_smaller_groups(client: EagerClient) -> None:
    put(client)
    publish(client, "other", Troubled("batch"))
    found = compared(client, submit(client, "j", "other"))
    assert (found.rows, found.champion_only, found.failed_parts) == (ROWS, 0, 0)


def test_a_challenger_that_cannot_be_loaded_does_not_harm_the_job(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client)
    publish(client, "other", Unloadable())
    monkeypatch.setitem(LOADABLE, "value", False)
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    found = compared(client, job)
    assert (found.parts, found.failed_parts, found.rows) == (0, 3, 0)
    assert "a package is missing" in found.failures[0].reason
    assert not listed(client, job, "_challenger/")


def test_a_challenger_with_other_features_reads_them_if_the_input_has_them(client: EagerClient) -> None:
    put(client, rows("abc"))
    publish(client, "other", LogisticRegression(), "bc")
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    assert PlanFile(client.buckets.main, "j").columns.extra == ("b", "c")
    assert compared(client, job).rows == ROWS


@pytest.mark.parametrize(("row", "parts"), [(0, 0), (ROWS - 10, 2)])
def test_a_value_that_only_the_challenger_needs_rejects_no_row(row: int, parts: int, client: EagerClient) -> None:
    frame = rows("ab")
    frame["b"] = frame["b"].astype(str)
    frame.loc[row, "b"] = "oops"
    client.put("in/rows.csv", frame.to_csv(index=False))
    publish(client, "other", LogisticRegression(), "b")
    options: dict[str, Any] = {"types": {"b": "float64"}, "max_rejected": "50%", "segment": "region"}
    job = submit(client, "j", "other", **options)
    alone = submit(client, "alone", **options)
    assert_unharmed(client, job, alone)
    assert profile_in(client, job) == profile_in(client, alone)
    found = compared(client, job)
    assert (found.parts, found.failed_parts) == (parts, 3 - parts)
    assert f"a column that only it needs cannot be read: row {row} of" in found.failures[0].reason


def test_a_damaged_column_that_only_the_challenger_needs_does_not_harm_the_job(client: EagerClient) -> None:
    put(client, rows("ab"))
    data = bytearray(client.buckets.main.get("in/rows.parquet").data)
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(2).column(1)
    assert chunk.path_in_schema == "b"
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    stop = start + chunk.total_compressed_size
    data[start:stop] = b"\xff" * (stop - start)
    client.put("in/rows.parquet", bytes(data))
    publish(client, "other", LogisticRegression(), "b")
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    assert (compared(client, job).parts, compared(client, job).failed_parts) == (2, 1)


def profile_in(client: EagerClient, job: Job) -> dict[str, Any]:
    """Return the profile of a job, without the id of the job."""
    found: dict[str, Any] = json.loads(client.buckets.main.get(ResultsLayout.of(client.buckets, job).profile).data)
    assert found.pop("job_id") == job.spec.job_id
    return found


def test_rejected_rows_have_no_columns_of_the_challenger(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        publish(client, "champion", Troubled("row"))
        publish(client, "other", LogisticRegression(), "ab")
        put(client, rows("ab"))
        job = submit(client, "j", "other", max_rejected="1", checks="[columns.a]\nmin = -2.5\n")
        assert_unharmed(client, job, submit(client, "alone", max_rejected="1", checks="[columns.a]\nmin = -2.5\n"))
        (table,) = listed(client, job, "_rejected/").values()
        assert "b" not in table.schema.names


def test_a_kept_column_may_be_a_feature_of_the_challenger(client: EagerClient) -> None:
    frame = rows("ab")
    frame["b"] = pd.array([1, None] * (ROWS // 2), "Int64")
    put(client, frame)
    publish(client, "other", Troubled(above=0.5), "b")
    job = submit(client, "j", "other", keep="id,b")
    table = listed(client, job, "_challenger/")["part-00000.parquet"]
    assert table.column("b").null_count == PART_ROWS // 2
    assert table.column("prediction").to_pylist()[:2] == ["yes", "no"]  # missing values are NaN, as in pandas
    assert PlanFile(client.buckets.main, "j").columns.extra == ()


def test_a_challenger_whose_features_the_input_lacks_does_not_harm_the_job(client: EagerClient) -> None:
    put(client)
    publish(client, "other", Troubled(), "z")
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    found = compared(client, job)
    assert "'z'" in found.failures[0].reason
    assert found.failed_parts == 3


def test_columns_that_only_one_version_has_are_named_and_not_compared(client: EagerClient) -> None:
    put(client)
    client.models.publish("other", LinearRegression().fit(pd.DataFrame({"a": [0.0, 1.0]}), [0.0, 1.0]))
    found = compared(client, submit(client, "j", "other"))
    assert found.only_of_champion == ("proba_no", "proba_yes")
    assert found.only_of_challenger == ()
    assert found.scores == {}
    assert found.labels["prediction"].agreed == 0  # a number is no class


def test_regressors_are_compared_by_their_numbers(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        frame = pd.DataFrame({"a": [0.0, 1.0]})
        client.models.publish("champion", LinearRegression().fit(frame, [[0.0, 1.0], [2.0, 5.0]]))
        client.models.publish("other", LinearRegression().fit(frame, [[1.0, 1.0], [3.0, 5.0]]))
        put(client)
        found = compared(client, submit(client, "j", "other"))
        assert found.labels == {}
        assert list(found.scores) == ["prediction_0", "prediction_1"]
        assert found.scores["prediction_0"].mean_difference == pytest.approx(1.0)
        assert found.scores["prediction_1"].mean_absolute_difference == pytest.approx(0.0, abs=1e-9)


def test_the_challenger_is_checked_when_a_job_is_submitted(client: EagerClient) -> None:
    put(client)
    with pytest.raises(ModelNotFound, match="no model 'absent'"):
        submit(client, "j", "absent")
    with pytest.raises(InvalidRequest, match="so is the model of the job"):
        submit(client, "j", "champion")
    with pytest.raises(InvalidRequest, match="a job of records has no challenger"):
        client.submit_records("champion", [{"a": 1.0}], challenger="other")  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="not of the form"):
        submit(client, "j", "a@b@c")


def test_a_version_is_kept_while_a_job_compares_with_it(tmp_path: Path) -> None:
    with eager(tmp_path, run=False) as client:
        publish(client, "champion", Troubled())
        ref = publish(client, "other", Troubled())
        put(client)
        submit(client, "j", "other")
        with pytest.raises(ModelInUse, match="job j"):
            client.delete_model(client.registry.resolve(ref))


def test_a_job_without_a_challenger_has_documents_as_before(client: EagerClient) -> None:
    put(client)
    job = submit(client, "j")
    assert b"challenger" not in job.to_json()
    assert read_comparison(client.buckets.main, job) is None
    assert not any("_challenger" in info.key for info in client.buckets.main.list(""))


def test_rejected_rows_are_scored_again_without_the_challenger(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        publish(client, "champion", Troubled("row"))
        publish(client, "other", Troubled())
        put(client)
        submit(client, "j", "other", max_rejected="1")
        again = client.resume_rejected("j")
        assert read_job(client.buckets.main, again.job_id).challenger is None


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Make the first PUT of an object with this name fail, as if the process died before it."""
    put_object = DirectoryStore.put
    failed: list[str] = []

    def failing(self: Any, key: str, data: bytes, **options: Any) -> Any:
        if key.endswith(name) and not failed:
            failed.append(key)
            raise StoreUnavailable("the network is gone")
        return put_object(self, key, data, **options)

    monkeypatch.setattr(DirectoryStore, "put", failing)
    return failed


def run_until_done(client: EagerClient) -> None:
    for _ in range(20):
        try:
            if not client.run():
                return
        except StoreUnavailable:
            continue


def test_a_part_that_is_scored_again_keeps_the_results_of_its_challenger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with eager(tmp_path, run=False) as client:
        publish(client, "champion", Troubled())
        publish(client, "other", Troubled(above=0.5))
        put(client)
        # Given a part whose process dies after the challenger's results are written, and before those of the job
        failed = fail_once(monkeypatch, "job_id=j/part-00001.parquet")
        job = submit(client, "j", "other")
        run_until_done(client)
        assert failed
        # Then the part is in the comparison once
        found = compared(client, job)
        assert (found.rows, found.parts, found.failed_parts) == (ROWS, 3, 0)


def test_results_of_another_attempt_are_replaced_before_the_part_is_committed(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client)
    publish(client, "other", Troubled(above=0.5))
    job = submit(client, "j", "other")
    store, layout = client.buckets.main, ResultsLayout.of(client.buckets, job)
    key = layout.challenger_part(0)
    stored = store.get(key)
    for change in ({"of": "0" * 64}, {"plan": "0" * 64}):
        # Given a part whose results were lost, and what another attempt at it has left behind
        store.put(key, b"of another attempt", metadata=dict(stored.info.metadata) | change)
        store.delete(layout.part(0))
        for name in (layout.success, layout.manifest, layout.comparison):
            store.delete(name)
        for info in list(store.list("jobs/j/")):
            if not info.key.endswith(("job.json", "plan.json.gz")):
                store.delete(info.key)
        client.ledger.forget("j")
        client.submit("champion", "s3://scoreline/in/", **_again(job))
        found = compared(client, job)
        if "of" in change:  # then it is replaced
            assert store.get(key).data == stored.data
            assert (found.parts, found.rows) == (3, ROWS)
        else:  # an object of another deployment is left alone, and named
            assert store.get(key).data == b"of another attempt"
            assert (found.parts, found.failed_parts) == (2, 1)
            assert "was not written for this job" in found.failures[0].reason


def _again(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.spec.job_id,
        "keep": job.spec.keep,
        "part_rows": job.spec.part_rows,
        "challenger": job.spec.challenger,
    }


def test_a_challenger_whose_results_cannot_be_stored_does_not_harm_the_job(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client)
    publish(client, "other", Troubled(above=0.5))
    failed = fail_once(monkeypatch, "_challenger/part-00001.parquet")
    job = submit(client, "j", "other")
    assert failed
    assert_unharmed(client, job, submit(client, "alone"))
    found = compared(client, job)
    assert [(item.part, item.reason) for item in found.failures] == [(1, "the network is gone")]


def test_a_damaged_file_of_the_challenger_does_not_harm_the_end_of_the_job(tmp_path: Path) -> None:
    with eager(tmp_path, run=False) as client:
        publish(client, "champion", Troubled())
        publish(client, "other", Troubled(above=0.5))
        put(client)
        job = submit(client, "j", "other")
        client.run(4)  # the plan and the parts
        store, layout = client.buckets.main, ResultsLayout.of(client.buckets, job)
        for number, data in enumerate((b"PAR1 no more", store.get(layout.challenger_part(1)).data[:-40] + b"x" * 40)):
            key = layout.challenger_part(number)
            store.put(key, data, metadata=dict(store.head(key).metadata))
        run_until_done(client)
        found = compared(client, job)
        assert (found.parts, found.failed_parts) == (1, 2)
        outcome = read_outcome(store, "j")
        assert outcome is not None
        assert outcome.state == "succeeded"


def test_comparisons_that_do_not_fit_together_do_not_harm_the_end_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack = part_challenger.unpack

    def changed(text: str, where: str) -> Comparison:
        found = unpack(text, where)
        if "part-00001" not in where:
            return found
        joint = JointHistogram(probabilities=True)
        return replace(found, scores={name: replace(item, joint=joint) for name, item in found.scores.items()})

    monkeypatch.setattr(merge_comparison, "unpack", changed)
    with eager(tmp_path) as client:
        frame = pd.DataFrame({"a": [0.0, 1.0]})
        for name in ("champion", "other"):
            client.models.publish(name, LinearRegression().fit(frame, [0.0, 1.0]))
        put(client)
        job = submit(client, "j", "other")
        found = compared(client, job)
        assert (found.parts, found.failed_parts) == (2, 1)
        outcome = read_outcome(client.buckets.main, "j")
        assert outcome is not None
        assert outcome.state == "succeeded"


def test_of_many_comparisons_without_scores_only_some_are_read(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_comparison, "MAX_SCORES", 1)
    put(client)
    publish(client, "other", Troubled(above=0.5))
    found = compared(client, submit(client, "j", "other", method="predict"))
    assert not found.scores
    assert found.parts == 1


def test_comparisons_that_cannot_be_merged_do_not_harm_the_end_of_the_job(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client)
    publish(client, "other", Troubled(above=0.5))

    def defect(*_: object) -> Comparison:
        raise RuntimeError("a defect")

    monkeypatch.setattr(merge_comparison, "_read", defect)
    job = submit(client, "j", "other")
    assert_unharmed(client, job, submit(client, "alone"))
    assert read_comparison(client.buckets.main, job) is None


def test_scores_beside_another_attempt_are_not_compared(tmp_path: Path) -> None:
    with eager(tmp_path, run=False) as client:
        publish(client, "champion", Troubled())
        publish(client, "other", Troubled(above=0.5))
        put(client)
        job = submit(client, "j", "other")
        client.run(4)
        store, key = client.buckets.main, ResultsLayout.of(client.buckets, job).challenger_part(1)
        stored = store.get(key)
        store.put(key, stored.data, metadata=dict(stored.info.metadata) | {"of": "0" * 64})
        run_until_done(client)
        found = compared(client, job)
        assert (found.parts, found.failed_parts) == (2, 1)
        assert "its results are missing" in found.failures[0].reason


def test_a_challenger_that_kills_the_process_is_left_out_in_the_end(client: EagerClient) -> None:
    # Given a part whose process has died in each of its attempts
    put(client)
    publish(client, "other", Troubled())
    ledger, start = client.ledger, client.ledger.start

    def died(lease: Any, **options: Any) -> Any:
        started = start(lease, **options)
        return SimpleNamespace(**vars(started) | {"attempt": 4 if lease.part == 1 else 3})

    ledger.start = died  # type: ignore[method-assign]
    # When it is scored once more
    job = submit(client, "j", "other")
    # Then it is scored without its challenger
    found = compared(client, job)
    assert (found.parts, found.failed_parts) == (2, 1)
    assert found.failures[0].reason == part_challenger.DIED
    outcome = read_outcome(client.buckets.main, "j")
    assert outcome is not None
    assert outcome.state == "succeeded"
    # And without a challenger, it has no further attempt
    alone = submit(client, "alone")
    outcome = read_outcome(client.buckets.main, alone.spec.job_id)
    assert outcome is not None
    assert outcome.state == "failed"


def test_a_time_limit_does_not_count_against_the_part_if_the_challenger_took_long(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client)
    publish(client, "other", Troubled())
    score = part_challenger.PartChallenger._add
    interrupted: list[Any] = []

    def interrupt(self: Any, *arguments: Any) -> None:
        score(self, *arguments)
        if not interrupted:
            interrupted.append(self)
            self._engine.challengers.spent_s = 10.0
            raise SoftTimeLimitExceeded

    monkeypatch.setattr(part_challenger.PartChallenger, "_add", interrupt)
    with pytest.raises(Exception, match="partly because of the challenger"):
        submit(client, "j", "other")
    run_until_done(client)
    job = read_job(client.buckets.main, "j")
    client.watch("j") if read_outcome(client.buckets.main, "j") is None else None
    found = compared(client, job)
    assert found.parts == 0
    assert "reached the time limit of part 0" in found.failures[0].reason


def test_a_challenger_needs_room_beside_the_model_of_the_job() -> None:
    pinned: Any = SimpleNamespace(ref="b@2")
    champion: Any = SimpleNamespace(manifest=SimpleNamespace(ref="a@1"))
    models = SimpleNamespace(has_room_beside=lambda *_: False, get=lambda _: pytest.fail("it was loaded"))
    with pytest.raises(ModelUnloadable, match="does not fit into the memory for models beside a@1: raise"):
        load_beside(models, pinned, champion)
    models = SimpleNamespace(has_room_beside=lambda *_: True, get=lambda _: champion)
    assert load_beside(models, pinned, champion) is champion


def _wait_forever() -> None:
    while True:
        pass


def test_a_dry_run_says_what_the_challenger_adds(client: EagerClient) -> None:
    put(client, rows("ab"))
    publish(client, "other", LogisticRegression(), "ab")
    alone = client.preflight("champion", "s3://scoreline/in/", keep="id", part_rows=PART_ROWS)
    found = client.preflight("champion", "s3://scoreline/in/", keep="id", part_rows=PART_ROWS, challenger="other")
    assert alone.challenger is None
    assert found.challenger is not None
    assert (found.challenger.failure, found.challenger.read) == ("", ("b",))
    assert found.challenger.work_s > 0
    assert found.challenger.model_bytes > 0
    assert found.expected.class_a - alone.expected.class_a == 3 + 2  # for each part, and for the comparison
    assert found.expected.class_b > alone.expected.class_b
    assert found.schema == alone.schema
    publish(client, "lacking", Troubled(), "z")
    lacking = client.preflight("champion", "s3://scoreline/in/", challenger="lacking").challenger
    assert lacking is not None
    assert "'z'" in lacking.failure
    shown = CliRunner().invoke(
        cli,
        ["submit", "champion", "s3://scoreline/in/", "--challenger", "other", "--keep", "id", "--dry-run"],
        env={"ENVIRONMENT": "development", "R2_BUCKET": "scoreline", "STORE_DIR": str(client.folder)},
    )
    assert shown.exit_code == 0, shown.output
    assert "and reads b for it" in shown.output


def test_a_limit_of_time_leaves_the_timer_of_an_application_in_place() -> None:
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    signal.setitimer(signal.ITIMER_REAL, 3600.0)
    try:
        with pytest.raises(TimeoutError), limited(0.01, 5.0):
            _wait_forever()
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3600.0
        assert signal.getsignal(signal.SIGALRM) == before[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    with pytest.raises(TimeoutError, match="more than 5 s"), limited(0.0, 5.0):
        pytest.fail("there was no time left")
