"""An application's tests can run jobs in the process that submits them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

import scoreline
from scoreline.storage.errors import (
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    JobNotFound,
    ModelNotFound,
    NothingToResume,
    StoreUnavailable,
)
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import EagerClient, eager

PEOPLE = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "visits": [1.0, 2.0, 8.0, 9.0]})
CHURN = LogisticRegression().fit(PEOPLE, ["leaves", "leaves", "stays", "stays"])
X, Y = pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]
LINE = LinearRegression().fit(X, Y)
AGES = DecisionTreeClassifier().fit(pd.DataFrame({"age": [19.0, 41.0]}), ["leaves", "stays"])
FILLED = make_pipeline(SimpleImputer(), LinearRegression()).fit(X, Y)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with eager(folder) as client:
        client.models.publish("churn", CHURN, alias="champion")
        client.models.publish("line", LINE)
        client.models.publish("filled", FILLED)
    return folder


@pytest.fixture
def client(published: Path) -> Iterator[EagerClient]:
    with eager(published) as made:
        yield made


@pytest.fixture
def waiting(published: Path) -> Iterator[EagerClient]:
    """A client whose jobs wait until the test runs them."""
    with eager(published, run=False) as made:
        yield made


def line_input(client: EagerClient, rows: int = 1_000, broken: tuple[int, ...] = ()) -> str:
    x = np.arange(rows, dtype=float)
    x[list(broken)] = np.nan
    return client.put(f"in/{rows}-{len(broken)}.parquet", pd.DataFrame({"id": range(rows), "x": x}))


# Records and objects


def test_records_may_belong_to_a_group_and_have_a_deadline(client: EagerClient) -> None:
    job = client.submit_records("line", [{"x": 1.0}], group="web", priority="high", deadline="1h")
    assert job.wait(timeout_s=60)[0]["prediction"] == pytest.approx(3.0)
    with pytest.raises(InvalidRequest, match="deadline"):
        client.submit_records("line", [{"x": 1.0}], deadline="soon")


def test_records_are_scored_when_they_are_submitted(client: EagerClient) -> None:
    job = client.submit_records("churn@champion", [{"name": "Ada", "age": 65, "visits": 8.0}])
    assert job.status().state == "succeeded"
    ((row,), direct) = job.wait(), CHURN.predict_proba(PEOPLE.assign(age=65.0, visits=8.0)[:1])
    assert (row["name"], row["prediction"], row["proba_stays"]) == ("Ada", "stays", direct[0][1])


def test_a_data_frame_of_records_comes_back_with_its_index(client: EagerClient) -> None:
    frame = pd.DataFrame({"x": [1.0, np.nan, 3.0]}, index=["a", "b", "c"])
    job = client.submit_records("line", frame)
    assert list(job.wait().index) == ["a", "c"]
    assert list(job.rejected) == [1]


def test_an_object_is_scored_in_parts_and_its_results_are_in_order(client: EagerClient) -> None:
    done = client.submit("line", line_input(client), part_rows=100)
    assert (done.state, done.parts, done.rows) == ("succeeded", 10, 1_000)
    found = client.results(done.job_id)
    assert found["id"].tolist() == list(range(1_000))
    assert np.array_equal(found["prediction"], LINE.predict(pd.DataFrame({"x": np.arange(1_000.0)})))


def test_csv_is_put_as_text_and_a_folder_of_it_is_scored(client: EagerClient) -> None:
    client.put("csv/a.csv", "x\n1\n2\n")
    assert client.put("csv/b.csv", b"x\n3\n") == "s3://scoreline/csv/b.csv"
    done = client.submit("line", "s3://scoreline/csv/")
    assert client.results(done.job_id)["prediction"].round(6).tolist() == [3.0, 5.0, 7.0]


def test_results_in_folders_have_the_column_of_the_folders(client: EagerClient) -> None:
    uri = client.put(
        "in/places.parquet", pd.DataFrame({"id": [1, 2, 3], "x": [1.0, 2.0, 3.0], "place": ["b", "a", "b"]})
    )
    done = client.submit("line", uri, partition_by="place")
    found = client.results(done.job_id)
    assert found["place"].astype(str).tolist() == ["a", "b", "b"]
    assert found["id"].tolist() == [2, 1, 3]


def test_rejected_rows_are_reported_and_scored_again(client: EagerClient) -> None:
    done = client.submit("line", line_input(client, 200, broken=(3, 150)), part_rows=100)
    assert (done.state, done.rows, done.rejected) == ("partial", 198, 2)
    assert len(client.results(done.job_id)) == 198
    (reason,) = client.rejected(done.job_id).reasons
    assert reason.rows == 2
    assert "'x'" in reason.examples[0].message
    again = client.resume_rejected(done.job_id, model="filled")
    assert (again.job_id, again.state, again.rows) == (f"{done.job_id}-rejected-1", "succeeded", 2)
    assert client.results(again.job_id)["id"].tolist() == [3, 150]


def test_other_buckets_are_folders_too(tmp_path: Path, published: Path) -> None:
    with eager(published, settings={"ALLOWED_BUCKETS": "lake"}) as client:
        uri = client.put("s3://lake/in/a.csv", "x\n1\n")
        assert (published / "lake/in/a.csv").read_text() == "x\n1\n"
        done = client.submit("line", uri, output="s3://lake/out/")
        assert len(client.results(done.job_id)) == 1
    with eager(tmp_path, settings={"R2_BUCKET": "acme-data"}) as client:
        assert client.put("a.csv", "x\n") == "s3://acme-data/a.csv"


def test_a_folder_of_its_own_is_removed() -> None:
    with eager() as client:
        client.put("in/a.csv", "x\n1\n")
        assert (client.folder / "scoreline/in/a.csv").is_file()
    assert not client.folder.exists()


# Faults


class Grumpy(LinearRegression):
    """Raises an error for every row."""

    def predict(self, x: Any) -> Any:
        raise ValueError("not today")


def test_a_job_whose_rows_all_fail_ends_as_failed_with_the_reason(client: EagerClient) -> None:
    client.models.publish("grumpy", Grumpy().fit(X, Y))
    failed = client.submit("grumpy", line_input(client, 10))
    assert failed.state == "failed"
    assert "not today" in failed.error
    with pytest.raises(JobFailed, match="not today"):
        client.results(failed.job_id)
    job = client.submit_records("grumpy", [{"x": 1.0}])
    with pytest.raises(JobFailed, match="not today"):
        job.wait()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("line", {"keep": "nope"}),
        ("line", {"types": {"nope": "string"}}),
        ("line", {"partition_by": "nope"}),
        ("grumpy", {}),
    ],
)
def test_a_job_that_would_fail_again_says_so_in_its_reason(
    client: EagerClient, model: str, options: dict[str, Any]
) -> None:
    client.models.publish("grumpy", Grumpy().fit(X, Y))
    failed = client.submit(model, line_input(client, 10), **options)
    assert (failed.state, failed.reason) == ("failed", "request"), failed.error


def test_a_job_over_its_budget_is_resumed_with_another(client: EagerClient) -> None:
    failed = client.submit("line", line_input(client, 200, broken=(3, 150)), max_rejected=0, part_rows=100)
    assert (failed.state, failed.reason) == ("failed", "rejected")
    resumed = client.resume(failed.job_id, max_rejected="5%")
    assert (resumed.state, resumed.rows, resumed.rejected) == ("partial", 198, 2)
    with pytest.raises(NothingToResume):
        client.resume(failed.job_id)


def test_a_request_that_production_refuses_is_refused(client: EagerClient) -> None:
    with pytest.raises(ModelNotFound):
        client.submit("nobody", line_input(client))
    with pytest.raises(InvalidRequest, match="unknown"):
        client.submit("line", line_input(client), part_row=3)  # type: ignore[call-arg]
    with pytest.raises(JobNotFound):
        client.status("never-was")
    with pytest.raises(InvalidSettings, match="R2_BUCKET"), eager(settings={"R2_BUCKET": "NO"}):
        pass


def test_a_transient_error_is_raised_and_the_next_run_goes_on(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store whose first write of a part fails
    main, failures = client.buckets.main, iter([True])
    put = main.put

    def fail_once(key: str, *arguments: Any, **options: Any) -> Any:
        if "/part-00001" in key and next(failures, False):
            raise StoreUnavailable("away")
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", fail_once)
    # When a job fails at that write
    with pytest.raises(StoreUnavailable, match="away"):
        client.submit("line", line_input(client), part_rows=250, job_id="met-it", max_attempts=1)
    assert client.status("met-it").state == "running"
    # Then the job continues when the test calls `run`, and the failure uses up no attempt
    client.run()
    assert client.status("met-it").state == "succeeded"


def test_a_fault_in_a_step_fails_its_job(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("scoreline.tasks.steps.eager.plan_job", broken)
    failed = client.submit("line", line_input(client))
    assert (failed.state, failed.error) == ("failed", "ZeroDivisionError: a fault")


# One step after another


def test_a_job_is_seen_under_way_one_message_at_a_time(waiting: EagerClient) -> None:
    job_id = waiting.submit("line", line_input(waiting), part_rows=250).job_id
    assert waiting.status(job_id).state == "submitted"
    with pytest.raises(InvalidRequest, match=f"{job_id} is submitted and has not ended"):
        waiting.results(job_id)
    assert waiting.run(2) == 2
    now = waiting.status(job_id)
    assert (now.state, now.parts_done, now.rows, now.total_rows) == ("running", 1, 250, 1_000)
    assert waiting.run() == 4  # the messages of three parts and of the finalizer
    assert waiting.status(job_id).state == "succeeded"
    assert waiting.run() == 0


def test_waiting_for_a_job_runs_it(waiting: EagerClient) -> None:
    states = [now.state for now in waiting.watch(waiting.submit("line", line_input(waiting)).job_id)]
    assert states[0] == "submitted"
    assert "running" in states
    assert states[-1] == "succeeded"
    job = waiting.submit_records("line", [{"x": 1.0}])
    assert job.status().state == "submitted"
    assert waiting.run(1) == 1  # a small job of records is one message
    assert job.status().state == "succeeded"
    job = waiting.submit_records("line", [{"x": 1.0}])
    assert RecordsJob(waiting, job.job_id).wait()[0]["prediction"] == pytest.approx(3.0)


def test_a_cancelled_job_stops_and_is_resumed(waiting: EagerClient) -> None:
    job_id = waiting.submit("line", line_input(waiting), part_rows=250).job_id
    waiting.run(2)
    assert waiting.cancel(job_id).state == "cancelled"
    waiting.run()
    assert (waiting.status(job_id).state, waiting.status(job_id).rows) == ("cancelled", 250)
    assert waiting.resume(job_id).state == "submitted"
    waiting.run()
    assert waiting.status(job_id).state == "succeeded"
    assert len(waiting.results(job_id)) == 1_000


def test_messages_of_the_run_before_do_no_harm(waiting: EagerClient) -> None:
    job_id = waiting.submit("line", line_input(waiting), part_rows=250).job_id
    waiting.run(2)
    waiting.cancel(job_id)
    waiting.resume(job_id)  # the queue still contains messages of the first run, and the ledger was removed
    waiting.run()
    done = waiting.status(job_id)
    assert (done.state, done.parts_done, done.rows) == ("succeeded", 4, 1_000)


def test_a_job_goes_on_after_its_ledger_was_lost(waiting: EagerClient) -> None:
    job_id = waiting.submit("line", line_input(waiting), part_rows=250).job_id
    waiting.run(2)
    waiting.ledger.forget(job_id)
    waiting.run()
    assert waiting.status(job_id).state == "succeeded"


def test_a_job_of_a_client_that_is_gone_is_found_by_the_reconciler(waiting: EagerClient, published: Path) -> None:
    waiting.submit("line", line_input(waiting), job_id="left")
    waiting.submit_records("line", [{"x": 1.0}], job_id="left-too")
    with eager(published) as client:
        with pytest.raises(TimeoutError, match="left has not ended, and no message is left"):
            list(client.watch("left"))
        with pytest.raises(TimeoutError, match="left-too has not ended, and no message is left"):
            RecordsJob(client, "left-too").wait()
        assert client.reconcile().keys() >= {"left", "left-too"}
        assert client.status("left").state == "succeeded"
        assert RecordsJob(client, "left-too").wait()[0]["prediction"] == pytest.approx(3.0)


def test_a_job_is_submitted_twice_and_scored_once(client: EagerClient) -> None:
    uri = line_input(client)
    first = client.submit("line", uri, job_id="twice")
    assert client.submit("line", uri, job_id="twice") == first


# Schedules, notifications and counters


def test_schedules_submit_to_the_eager_client(client: EagerClient, tmp_path: Path) -> None:
    uri = line_input(client)
    file = tmp_path / "schedules.toml"
    file.write_text(f'[hourly]\nmodel = "line"\ninput = "{uri}"\ncron = "0 * * * *"\n')
    scheduler, now = Scheduler(client, file), datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
    assert scheduler.tick(now) == {"hourly": []}
    (done,) = scheduler.tick(now + timedelta(hours=1))["hourly"]
    assert client.status(done.removeprefix("submitted ")).state == "succeeded"


def test_notifications_are_recorded_and_not_sent(published: Path) -> None:
    settings = {"WEBHOOK_URL": "https://example.org/a", "ALLOWED_WEBHOOKS": "https://example.org/b"}
    with eager(published, settings=settings) as client:
        uri = line_input(client, 100, broken=(1,))
        first = client.submit("line", uri)
        second = client.submit("line", uri, max_rejected=0, webhook="https://example.org/b/c")
        with pytest.raises(InvalidRequest, match="ALLOWED_WEBHOOKS"):
            client.submit("line", uri, webhook="https://example.com/")
        assert [(sent.url, sent.body["type"]) for sent in client.notifications] == [
            ("https://example.org/a", "job.partial"),
            ("https://example.org/b/c", "job.failed"),
        ]
        assert client.notifications[0].body["data"]["rows"] == 99
        assert client.notifications[1].id == f"{second.job_id}.1"
        # No notification is pending
        assert client.reconcile().keys().isdisjoint({first.job_id, second.job_id})


def test_the_counters_of_eager_jobs_can_be_read(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        client.models.publish("line", LINE)
        client.submit("line", line_input(client, 100, broken=(1,)), part_rows=25)
        client.submit("line", line_input(client, 100))
        found = client.ledger.counters.read()
    assert (found.rows, found.rejected, found.parts_scored) == (199, 1, 5)
    assert (found.jobs["partial"], found.jobs["succeeded"]) == (1, 1)
    assert found.loads["line"].count == 1  # the model stays loaded from job to job


# Tests in which the eager client replaces the client that the settings define


def test_the_functions_of_the_package_use_the_eager_client(client: EagerClient) -> None:
    from scoreline import submit, submit_records, watch

    done = submit("line", line_input(client))
    assert scoreline.status(done.job_id).state == "succeeded"
    assert [now.state for now in watch(done.job_id)] == ["succeeded"]
    assert submit_records("line", [{"x": 1.0}]).wait()[0]["prediction"] == pytest.approx(3.0)
    assert scoreline.Client.from_env() is client
    assert scoreline.cancel(done.job_id).state == "succeeded"
    with pytest.raises(NothingToResume):
        scoreline.resume(done.job_id)


def test_the_client_of_a_django_project_is_the_eager_client(client: EagerClient) -> None:
    import django.conf

    from scoreline.tasks import django as ours

    if not django.conf.settings.configured:
        django.conf.settings.configure()
    ours.forget()
    assert ours.client() is client
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(ours.client).result() is client


def test_a_client_made_from_given_settings_is_not_the_eager_client(client: EagerClient, tmp_path: Path) -> None:
    named = scoreline.Client.from_env({"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path)})
    assert named is not client


def test_after_a_nested_block_the_outer_client_is_used_again(client: EagerClient, tmp_path: Path) -> None:
    with eager(tmp_path) as inner:
        assert scoreline.Client.from_env() is inner
        with pytest.raises(ModelNotFound):
            scoreline.submit("line", line_input(inner))
    assert scoreline.Client.from_env() is client
    with pytest.raises(RuntimeError, match="of the test"), eager(tmp_path):
        raise RuntimeError("of the test")
    assert scoreline.Client.from_env() is client


def test_an_eager_block_leaves_nothing_behind(published: Path, tmp_path: Path) -> None:
    threads, environ = {thread for thread in threading.enumerate() if thread.is_alive()}, dict(os.environ)
    before = set(tmp_path.iterdir())
    with eager(published) as client:
        client.submit("line", line_input(client), part_rows=100)
        assert client.submit_records("line", [{"x": 1.0}]).wait()
        assert dict(os.environ) == environ
    assert set(threading.enumerate()) <= threads
    assert dict(os.environ) == environ
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(InvalidSettings):  # this process has no settings of Scoreline
        scoreline.Client.from_env()


def test_the_environment_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"R2_BUCKET": "acme-data", "WEBHOOK_URL": "https://example.org/a", "FORCE_R2": "true"}.items():
        monkeypatch.setenv(name, value)
    with eager(tmp_path) as client:
        client.models.publish("line", LINE)
        assert client.submit("line", client.put("a.csv", "x\n1\n")).output.startswith("s3://scoreline/")
        assert client.notifications == []


def test_threads_that_submit_at_once_have_their_jobs_done(client: EagerClient) -> None:
    uri = line_input(client)

    def submit(number: int) -> str:
        return scoreline.submit("line", uri, part_rows=250, job_id=f"of-thread-{number}").state

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(submit, range(8))) == ["succeeded"] * 8


# Tests of examples in the docs, of models and of messages


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/testing.md"])
def test_the_examples_of_the_docs_run_unchanged(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    code = [block for block in blocks if "eager" in block or "scoring" in block]
    names: dict[str, Any] = {"model": AGES}
    exec("\n".join(code), names)
    tests = [(name, test) for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == len(code) - ("scoring" in names)
    for name, test in tests:
        with eager(tmp_path / f"of {name}") as scoring:  # takes the place of the example's fixture
            test(scoring if "scoring" in inspect.signature(test).parameters else tmp_path / name)


def test_the_models_of_the_folder_are_those_of_its_settings(published: Path, client: EagerClient) -> None:
    environ = {"ENVIRONMENT": "development", "STORE_DIR": str(published)}
    assert ModelStorageManager.from_env(environ).list().keys() >= {"churn", "line"}
    assert client.models.load("churn@champion").manifest.name == "churn"


@pytest.mark.usefixtures("fresh_process")
def test_a_model_is_published_without_another_process(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("starts a process")

    monkeypatch.setattr(subprocess, "Popen", refused)
    first = client.models.publish("again", LINE)
    second = client.models.publish("again", FILLED)
    # the newest version, although both were published within a second
    assert client.models.show("again").version == second.version
    assert first.version < second.version


def test_every_message_that_a_job_sends_to_a_worker_is_known(client: EagerClient) -> None:
    code = "from scoreline.worker.tasks import app; print(*(name for name in app.tasks if name[:9] == 'scoreline'))"
    environ = os.environ | {"R2_ENDPOINT_URL": "http://r2.example", "R2_BUCKET": "data"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    of_others = {
        "submit",
        "score_records",
        "status",
        "reconcile",
        "tick",
        "gc",
    }  # applications and beat send these tasks
    names = set(done.stdout.split()) - {f"scoreline.{name}" for name in of_others}
    assert len(names) == 6
    for name in names:
        client.queue.send(name, job_id="never-was", part=0)
    with pytest.raises(JobNotFound):  # a message for a job that does not exist
        client.queue.send("scoreline.unheard_of", job_id="never-was")


def test_a_package_that_is_missing_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = sys.modules['pyarrow'] = None\n"
        "from scoreline.testing import eager\n"
        "from scoreline.storage.errors import PackageMissing\n"
        "try:\n"
        "    eager().__enter__()\n"
        "except PackageMissing as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("scoreline.testing needs '"), done.stderr
    assert "pip install -r ml-requirements.txt" in done.stdout


def test_a_corrupt_job_document_does_not_hold_up_other_jobs(client: EagerClient) -> None:
    client.buckets.main.put("jobs/broken/job.json", b"{")
    client.queue.send("scoreline.plan", job_id="broken")
    assert client.submit_records("line", [{"x": 1.0}]).wait()
