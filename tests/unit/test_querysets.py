"""Querysets are scored in place of objects, on SQLite, and the results are written into a model."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest

from scoreline.storage.errors import InvalidRequest, JobConflict, JobRemoved, ModelNotFound, QueueUnavailable
from scoreline.tasks.django import client
from scoreline.tasks.django.querysets import submitting
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.quality.results.reading import open_results
from scoreline.testing import EagerClient, eager
from tests.support.one_model import LINE
from tests.support.pages import configure_django

configure_django()

from django.db import connections, models, transaction  # noqa: E402


class Account(models.Model):
    x = models.DecimalField(max_digits=9, decimal_places=2, null=True)

    class Meta:
        app_label = "bank"


class Customer(models.Model):
    account = models.ForeignKey(Account, on_delete=models.CASCADE)
    name = models.CharField(max_length=40)
    joined = models.DateField(null=True)
    seen = models.DateTimeField(null=True)
    token = models.UUIDField(null=True)
    size = models.FloatField(null=True)

    class Meta:
        app_label = "bank"


class Prediction(models.Model):
    customer = models.OneToOneField(Customer, on_delete=models.CASCADE)
    prediction = models.FloatField()
    note = models.CharField(max_length=40, default="")

    class Meta:
        app_label = "bank"


TABLES = (Account, Customer, Prediction)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EagerClient]:
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "bank.sqlite3")}
    given = connections.configure_settings({"default": {}, "bank": sqlite})
    monkeypatch.setattr(connections, "_settings", given)
    monkeypatch.setitem(connections.__dict__, "settings", given)
    with connections["bank"].schema_editor() as editor:
        for model in TABLES:
            editor.create_model(model)
    for number in range(1, 6):
        account = Account.objects.using("bank").create(x=Decimal(number) / 2)
        Customer.objects.using("bank").create(account=account, name=f"Ä {number}\n", joined=date(2026, 11, number))
    with eager(tmp_path / "store") as found:
        found.models.publish("line", LINE)
        yield found
    connections["bank"].close()
    del connections["bank"]


def customers() -> Any:
    return Customer.objects.using("bank").order_by("pk")


def results(job_id: str) -> list[dict[str, Any]]:
    return [row for batch in open_results(client().buckets, job_id) for row in batch.to_pylist()]


def test_rows_of_a_queryset_are_scored_by_paths_and_expressions(bank: EagerClient) -> None:
    job_id = client().submit_queryset("line", customers(), features={"x": models.F("account__x") + 1})
    assert client().status(job_id).state == "succeeded", client().status(job_id).error
    assert [(row["id"], round(row["prediction"], 6)) for row in results(job_id)] == [
        (number, number + 3.0) for number in range(1, 6)
    ]


def test_values_keep_their_types(bank: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "BLOCK_ROWS", 2)  # in the first block, most columns have no value
    monkeypatch.setattr(submitting, "FILE_BYTES", 1)
    seen, token = datetime(2026, 11, 29, 1, 2, 3, 4, tzinfo=UTC), UUID(int=7)
    customers().filter(pk=4).update(seen=seen, token=token, size=0.1)
    columns = {"id": "pk", "x": "account__x"} | {name: name for name in ("name", "joined", "seen", "token", "size")}
    uris, types = submitting.stage(bank.buckets.main, "a", customers(), columns)
    assert types == {
        "id": "int64",
        "x": "float64",
        "name": "string",
        "joined": "date",
        "seen": "timestamp_utc",
        "token": "string",
        "size": "float64",
    }
    assert len(uris) == 3
    lines = b"".join(gzip.decompress(bank.buckets.main.get(uri.split("/", 3)[3]).data) for uri in uris).splitlines()
    assert len(lines) == 5
    assert b'"joined": "2026-11-04", "seen": "2026-11-29T01:02:03.000004+00:00"' in lines[3]
    assert b'"token": "00000000-0000-0000-0000-000000000007", "size": 0.1' in lines[3]
    job = bank.submit("line", uris, job_id="a", types=types, format="jsonl")
    assert job.state == "succeeded", job.error
    assert [(row["name"], row["joined"], row["seen"]) for row in results("a")][3] == ("Ä 4\n", date(2026, 11, 4), seen)


def test_nothing_is_submitted_before_the_commit_or_after_a_rollback(bank: EagerClient) -> None:
    with transaction.atomic(using="bank"):
        job_id = client().submit_queryset("line", customers(), features={"x": "account__x"})
        Account.objects.using("bank").filter(pk=1).update(x=50)
        assert list(bank.buckets.main.list("jobs/")) == []
    assert round(results(job_id)[0]["prediction"], 6) == 101.0
    before = [info.key for info in bank.buckets.main.list("jobs/")]
    with transaction.atomic(using="bank"):
        client().submit_queryset("line", customers(), features={"x": "account__x"})
        transaction.set_rollback(True, using="bank")
    assert [info.key for info in bank.buckets.main.list("jobs/")] == before


def test_a_repeated_call_reads_no_rows_again(bank: EagerClient) -> None:
    for _ in range(2):
        client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")
        Account.objects.using("bank").update(x=0)
    assert len(read_job(bank.buckets.main, "a").spec.inputs) == 1
    assert len(list(bank.buckets.main.list("jobs/a/staged/"))) == 1
    assert round(results("a")[4]["prediction"], 6) == 6.0


def test_results_are_written_into_a_model_once(bank: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.router.db_for_write", lambda model, **_: "bank")
    Prediction.objects.using("bank").create(customer_id=2, prediction=-1, note="stays")
    job_id = client().submit_queryset("line", customers(), features={"x": "account__x"}, into=Prediction)
    for _ in range(2):
        assert client().load_results(job_id, Customer, into=Prediction) == 5
    rows = Prediction.objects.using("bank").order_by("customer_id").values_list("customer_id", "prediction", "note")
    assert [(key, round(value, 6), note) for key, value, note in rows] == [
        (number, number + 1.0, "stays" if number == 2 else "") for number in range(1, 6)
    ]


def test_workers_load_results_into_a_model_in_postgres(bank: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.router.db_for_write", lambda model, **_: "bank")
    monkeypatch.setattr(type(connections["bank"]), "vendor", "postgresql")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(type(bank), "submit", lambda self, model, input, **options: sent.append(options))
    client().submit_queryset("line", customers(), features={"x": "account__x"}, into=Prediction, database="shop")
    (options,) = sent
    assert (options["into"], options["key"], options["database"]) == ("public.bank_prediction", ["customer_id"], "shop")
    assert options["into_columns"] == ["customer_id=id", "prediction=prediction"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"features": {}}, "name at least one"),
        ({"features": ["id"]}, "none as the key, 'id'"),
        ({"features": ["x"], "delimiter": ";", "query": "q"}, "query is not an option of a queryset"),
        ({"features": ["x"], "into": Account}, "Account has no single unique relation to Customer"),
        ({"features": ["x"], "into": Prediction, "into_key": "prediction"}, "Prediction.prediction is not unique"),
        ({"features": ["x"], "into": Prediction, "fields": {"score": "prediction"}}, "has no field 'score'"),
        ({"features": ["x"], "into": Prediction, "fields": {}}, "fields names no field of Prediction"),
        ({"features": ["weight"]}, r"features \['weight'\] and key 'pk' of Customer: Cannot resolve keyword 'weight'"),
        ({"features": {"x": "size"}, "limit": 0}, "the queryset has no rows"),
        ({"features": {"x": "size"}, "infinite": True}, "column 'x' of the queryset has an infinite number"),
    ],
)
def test_what_cannot_be_scored_is_said_and_leaves_nothing(
    bank: EagerClient, given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.db.router.db_for_write", lambda model, **_: "bank")
    rows = customers().none() if given.pop("limit", None) == 0 else customers()
    if given.pop("infinite", False):
        rows.filter(pk=3).update(size=float("inf"))
    with pytest.raises(InvalidRequest, match=said):
        client().submit_queryset("line", rows, **given)
    assert list(bank.buckets.main.list("jobs/")) == []


def test_a_field_that_does_not_exist_is_refused_before_the_commit(bank: EagerClient) -> None:
    with transaction.atomic(using="bank"), pytest.raises(InvalidRequest, match="Cannot resolve keyword 'weight'"):
        client().submit_queryset("line", customers(), features={"x": models.F("weight") + 1})


def test_a_refused_job_leaves_no_rows(bank: EagerClient) -> None:
    with pytest.raises(ModelNotFound):
        client().submit_queryset("nothing", customers(), features={"x": "account__x"})
    assert list(bank.buckets.main.list("jobs/")) == []


def unavailable(*_: Any, **__: Any) -> None:
    raise QueueUnavailable("the broker does not answer")


def test_an_outage_at_the_commit_leaves_no_rows_without_a_job(
    bank: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> None:
        client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")

    with monkeypatch.context() as before_reading:
        before_reading.setattr(bank.submission.queue, "ping", unavailable)
        before_reading.setattr(submitting, "stage", None)
        with pytest.raises(QueueUnavailable):
            call()
    with monkeypatch.context() as after_reading:
        stage = submitting.stage

        def stage_before_outage(*given: Any) -> Any:
            found = stage(*given)
            assert list(bank.buckets.main.list("jobs/a/staged/"))
            after_reading.setattr(bank.submission.queue, "ping", unavailable)
            return found

        after_reading.setattr(submitting, "stage", stage_before_outage)
        with pytest.raises(QueueUnavailable):
            call()
    assert list(bank.buckets.main.list("jobs/")) == []
    with monkeypatch.context() as after_recording:
        after_recording.setattr(bank.submission.dispatcher, "send", unavailable)
        with pytest.raises(QueueUnavailable):
            call()
    assert len(list(bank.buckets.main.list("jobs/a/staged/"))) == 1
    monkeypatch.setattr(submitting, "stage", None)
    call()
    assert len(results("a")) == 5


def test_an_answer_that_was_lost_does_no_harm(bank: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bank.buckets.main.put

    def put_twice(key: str, data: bytes, **more: Any) -> Any:
        if "/staged/" in key:
            put(key, data, **more)
        return put(key, data, **more)

    monkeypatch.setattr(bank.buckets.main, "put", put_twice)
    client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")
    assert len(results("a")) == 5


def test_the_slower_of_two_processes_joins_the_job_of_the_faster(
    bank: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> str:
        found: str = client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")
        return found

    stage, others = submitting.stage, [call]

    def stage_after_other(*given: Any) -> Any:
        if others:
            others.pop()()
        return stage(*given)

    monkeypatch.setattr(submitting, "stage", stage_after_other)
    assert call() == "a"
    assert len(list(bank.buckets.main.list("jobs/a/staged/"))) == 1
    assert len(results("a")) == 5


def test_another_job_of_the_same_id_is_a_conflict(bank: EagerClient) -> None:
    client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")
    with pytest.raises(JobConflict, match="job 'a' is another job, with the columns id, x"):
        client().submit_queryset("line", customers(), features={"x": "account__x", "size": "size"}, job_id="a")


def test_the_id_of_a_removed_job_is_refused_before_rows_are_read(
    bank: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(*_: Any) -> None:
        raise JobRemoved("job 'a' was removed")

    monkeypatch.setattr(submitting, "read_job", removed)
    monkeypatch.setattr(submitting, "stage", None)
    with pytest.raises(JobRemoved):
        client().submit_queryset("line", customers(), features={"x": "account__x"}, job_id="a")


def test_rows_of_a_replica_wait_for_the_transaction_of_the_database_behind_it(
    bank: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.db.router.db_for_read", lambda model, **_: "bank")
    monkeypatch.setattr("django.db.router.db_for_write", lambda model, **_: "main")
    given = connections.settings | {"main": connections.settings["bank"]}
    monkeypatch.setattr(connections, "_settings", given)
    monkeypatch.setitem(connections.__dict__, "settings", given)
    with transaction.atomic(using="main"):
        client().submit_queryset("line", Customer.objects.all(), features={"x": "account__x"})
        transaction.set_rollback(True, using="main")
    assert list(bank.buckets.main.list("jobs/")) == []
    connections["main"].close()
    del connections["main"]


def test_a_staged_file_of_another_job_is_no_input(bank: EagerClient) -> None:
    uris, types = submitting.stage(bank.buckets.main, "a", customers(), {"id": "pk", "x": "account__x"})
    with pytest.raises(InvalidRequest, match="a place that Scoreline keeps for itself"):
        bank.submit("line", uris, types=types)


def test_frames_of_results_are_what_pandas_reads(bank: EagerClient) -> None:
    job_id = client().submit_queryset("line", customers(), key="name", features=["account__x"], method="predict")
    assert client().status(job_id).state == "failed"  # the model has the feature x
    job_id = client().submit_queryset("line", customers(), key="name", features={"x": "account__x"})
    assert list(pd.DataFrame(results(job_id)).columns) == ["name", "prediction"]
