"""A broken document or object is reported, skipped and counted, and all other work continues."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ModelCorrupt, ModelInUse
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.inputs.only_new import unseen
from scoreline.tasks.job.documents import mark_active, read_job
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli
from tests.support.copies import copy_objects

X = pd.DataFrame({"x": [0.0, 1.0]})
GOOD, BROKEN = "good", "broken"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a client with two jobs: a valid one, and one whose documents the test breaks."""
    folder = tmp_path_factory.mktemp("scored")
    with eager(folder) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0]), alias="champion")
        for job_id in (GOOD, BROKEN):
            assert client.submit("line", client.put("in/a.parquet", X), job_id=job_id).state == "succeeded"
    return folder


@pytest.fixture
def client(scored: Path, tmp_path: Path) -> Iterator[EagerClient]:
    """A client of the test alone, with these two jobs."""
    copy_objects(scored, tmp_path / "buckets")
    with eager(tmp_path / "buckets") as client:
        yield client


@pytest.fixture
def main(client: EagerClient) -> ObjectStore:
    return client.buckets.main


def change(store: ObjectStore, key: str, **fields: Any) -> None:
    store.put(key, json.dumps(json.loads(store.get(key).data) | fields).encode())


JOB_CHANGES: list[dict[str, Any]] = [
    {"submitted": 5},
    {"submitted": "yesterday"},
    {"submitted": "2026-11-25T02:00:00"},
    {"webhook": 5},
    {"model": "line"},
    {"model": {"name": "line", "version": "../x", "manifest_sha256": "0" * 64}},
    {"model": {"name": "line", "version": "20260101T000000Z-00000", "manifest_sha256": 5}},
    {"spec": []},
]
OUTCOME_CHANGES: list[dict[str, Any]] = [
    {"state": "[/red]"},
    {"state": 5},
    {"seconds": "long"},
    {"rows": "many"},
    {"rows": None},
    {"error": ["no"]},
    {"run": "1"},
    {"failures": []},
]
BODIES = [b"", b"{", b"null", b"5", b"\xff\xfe", b"[" * 100_000]
CHANGES = [(keys.job, change) for change in JOB_CHANGES] + [(keys.outcome, change) for change in OUTCOME_CHANGES]


def named(value: Any) -> str:
    """Return the id of a parameter. The id of a function must be the same in each test process."""
    return value.__name__ if callable(value) else str(value)


def jobs(client: EagerClient) -> dict[str, tuple[str, str]]:
    return {job.job_id: (job.state, job.error) for job in client.jobs()}


@pytest.mark.parametrize(("key", "fields"), CHANGES, ids=named)
def test_jobs_are_listed_beside_one_whose_document_has_a_value_of_another_type(
    client: EagerClient, main: ObjectStore, key: Any, fields: dict[str, Any]
) -> None:
    change(main, key(BROKEN), **fields)
    found = jobs(client)
    assert found[GOOD] == ("succeeded", "")
    assert found[BROKEN][0] == "failed"
    assert key(BROKEN) in found[BROKEN][1]
    assert client.reconcile() == {}


@pytest.mark.parametrize("body", BODIES, ids=["empty", "cut", "null", "a number", "no text", "deep"])
@pytest.mark.parametrize("key", [keys.job, keys.outcome], ids=named)
def test_jobs_are_listed_beside_one_whose_document_is_not_json(
    client: EagerClient, main: ObjectStore, key: Any, body: bytes
) -> None:
    main.put(key(BROKEN), body)
    found = jobs(client)
    assert (found[GOOD], found[BROKEN][0]) == (("succeeded", ""), "failed")
    assert main.uri(key(BROKEN)) in found[BROKEN][1]


def test_the_plan_is_read_only_if_the_outcome_does_not_say_how_many_rows_there_are(
    client: EagerClient, main: ObjectStore
) -> None:
    before = client.status(BROKEN)
    main.put(keys.plan(BROKEN), b"{")
    client.submission.statuses._total_rows.clear()
    assert client.status(BROKEN) == before
    assert before.total_rows == before.rows + before.rejected > 0
    change(main, keys.outcome(BROKEN), state="failed")
    state, error = jobs(client)[BROKEN]
    assert (state, main.uri(keys.plan(BROKEN)) in error) == ("failed", True)


def test_foreign_objects_below_jobs_are_not_listed(client: EagerClient, main: ObjectStore) -> None:
    main.put("jobs/not a job/job.json", b"{}")
    assert set(jobs(client)) == {GOOD, BROKEN}


@pytest.mark.parametrize("marker", [b"2026-11-25T02:00:00", b"yesterday", b"", b"\xff"])
def test_a_marker_that_cannot_be_read_keeps_no_other_job_from_being_reconciled(
    client: EagerClient, main: ObjectStore, marker: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    main.put(keys.active("nobody"), marker)
    mark_active(main, GOOD)
    assert client.reconcile() == {"nobody": "submitting", GOOD: "ended"}
    assert [record.key for record in caplog.records if record.msg == "marker.unreadable"] == [  # type: ignore[attr-defined]
        keys.active("nobody")
    ]


def test_an_old_marker_without_a_job_is_removed(client: EagerClient, main: ObjectStore) -> None:
    main.put(keys.active("nobody"), (datetime.now(UTC) - timedelta(days=2)).isoformat().encode())
    client.reconcile()
    assert client.reconcile() == {}


@pytest.mark.parametrize("key", [keys.job, keys.run, keys.outcome, keys.delivery, keys.plan], ids=named)
def test_other_jobs_are_reconciled_beside_one_with_a_broken_document(
    client: EagerClient, main: ObjectStore, key: Any
) -> None:
    main.put(key(BROKEN), b"[1]")
    if key is keys.plan:
        main.delete(keys.outcome(BROKEN))
    mark_active(main, BROKEN)
    mark_active(main, GOOD)
    done = client.reconcile()
    assert done.pop(GOOD) == "ended"
    assert list(main.list(keys.active(GOOD))) == []
    # these two documents are not read after a success
    assert key in (keys.run, keys.delivery) or key(BROKEN) in done[BROKEN]


def test_a_model_can_be_deleted_although_a_job_cannot_be_read(client: EagerClient, main: ObjectStore) -> None:
    pinned = client.registry.resolve("line")
    client.models.publish("line", LinearRegression().fit(X, [1.0, 4.0]), alias="champion")
    main.put(keys.job(BROKEN), b"{")
    for name in (BROKEN, "nobody"):
        mark_active(main, name)
    main.put(f"{keys.JOBS_ACTIVE}no name", b"")
    mark_active(main, GOOD)
    with pytest.raises(ModelInUse, match=f"job {GOOD} "):
        client.delete_model(pinned)
    main.delete(keys.active(GOOD))
    client.delete_model(pinned)
    assert pinned.version not in client.registry.versions("line")


STRAY = ["aliases/notes.txt", "aliases/.json", "aliases/a b.json", "aliases/deep/x.json", "aliases/..json"]


@pytest.mark.parametrize("name", STRAY)
def test_models_are_listed_although_a_stray_object_lies_among_the_aliases(
    client: EagerClient, main: ObjectStore, name: str
) -> None:
    main.put(f"models/line/{name}", b"hello")
    main.put("models/no name/20260101T000000Z-00000/manifest.json", b"{}")
    assert client.registry.names() == ["line"]
    assert [alias.name for alias in client.registry.aliases("line")] == ["champion"]
    client.registry.check_no_alias(PinnedModel(name="line", version="20260101T000000Z-00000", manifest_sha256="0" * 64))


ALIAS_CHANGES: list[dict[str, Any]] = [
    {"history": []},
    {"history": "x"},
    {"history": [5]},
    {"history": [{"seq": "1", "version": "20260101T000000Z-00000", "manifest_sha256": "0" * 64, "at": ""}]},
    {"history": [{"seq": 1, "version": "../../x", "manifest_sha256": "0" * 64, "at": ""}], "version": "../../x"},
    {"history": [{"seq": 1, "version": "20260101T000000Z-00000", "manifest_sha256": "../x", "at": ""}]},
    {"seq": "1"},
]


@pytest.mark.parametrize("fields", ALIAS_CHANGES, ids=named)
def test_an_alias_that_cannot_be_read_is_named_and_can_be_set_again(
    client: EagerClient, main: ObjectStore, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    main.put(keys.alias("line", "second"), main.get(keys.alias("line", "champion")).data)
    change(main, keys.alias("line", "champion"), **{"version": "20260101T000000Z-00000", "seq": 1} | fields)
    # The other alias is listed, and the error names the broken alias
    assert [alias.name for alias in client.registry.aliases("line")] == ["second"]
    assert "alias.unreadable" in caplog.messages
    with pytest.raises(ModelCorrupt, match="scoreline models alias line champion VERSION"):
        client.registry.resolve("line@champion")
    # The broken alias may name the version to delete, so nothing is deleted
    pinned = client.registry.resolve("line")
    with pytest.raises(ModelCorrupt, match="line@champion"):
        client.delete_model(pinned)
    # Setting the broken alias again replaces it
    client.registry.alias("line", "champion", pinned.version)
    assert client.registry.resolve("line@champion") == pinned


def test_a_manifest_with_values_of_other_types_is_refused(client: EagerClient, main: ObjectStore) -> None:
    pinned = client.registry.resolve("line")
    key = keys.manifest("line", pinned.version)
    sound = json.loads(main.get(key).data)
    artifact = sound["artifacts"][0]
    broken: list[dict[str, Any]] = [
        {"memory_bytes": "x"},
        {"memory_bytes": float("inf")},
        {"memory_bytes": -1},
        {"feature_names": [5]},
        {"outputs": {"model": 5}},
        {"libraries": []},
        {"artifacts": {}},
        {"artifacts": [artifact | {"sha256": "../../../etc/passwd"}]},
        {"artifacts": [artifact | {"chunks": ["../x"]}]},
        {"artifacts": [artifact | {"chunks": []}]},
        {"artifacts": [artifact | {"file": "../x"}]},
        {"artifacts": [artifact | {"role": "root"}]},
        {"artifacts": [artifact | {"size": -5}]},
        {"artifacts": [artifact | {"chunk_bytes": 0}]},
        {"artifacts": [artifact | {"chunk_bytes": 1 << 40}]},
    ]
    for fields in broken:
        main.put(key, json.dumps(sound | fields).encode())
        with pytest.raises(ModelCorrupt, match=f"the manifest of {pinned.ref} cannot be read"):
            client.registry.show(f"line@{pinned.version}")
    assert client.registry.names() == ["line"]


@pytest.mark.parametrize(
    "body",
    [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b"[5]"), gzip.compress(b"[[]]"), gzip.compress(b"[]")[:12]],
    ids=["empty", "no gzip", "an object", "a number", "an array", "cut"],
)
def test_a_broken_memory_of_what_a_schedule_scored_is_named_with_its_remedy(
    client: EagerClient, main: ObjectStore, body: bytes
) -> None:
    key = keys.schedule_seen("nightly")
    main.put(key, body)
    with pytest.raises(DocumentCorrupt, match=f"{key} is not what Scoreline writes there: .*; restore the object, or"):
        unseen(main, "nightly", read_job(main, GOOD), [])


def test_the_command_lists_all_jobs_and_counts_those_that_cannot_be_read(
    client: EagerClient, main: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("scoreline.worker.cli.jobs.Client.from_env", lambda: client)
    change(main, keys.job(BROKEN), submitted=5)
    for info in list(main.list(keys.JOBS_INDEX)):  # with an index, documents of jobs that have ended are not read
        main.delete(info.key)
    done = CliRunner().invoke(cli, ["jobs"])
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [[GOOD, "succeeded"], [BROKEN, "failed"]]
    assert "submitted is a number, not a text" in done.stderr
    assert done.stderr.splitlines()[-1] == "1 job cannot be read"
