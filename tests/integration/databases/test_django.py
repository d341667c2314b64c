"""Rows of `Scoring` in PostgreSQL and MariaDB, and a queryset of MariaDB whose results are written into a model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import QueueUnavailable
from scoreline.tasks.django import client, forget
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.testing import EagerClient, eager
from tests.support.mysql import fresh_database, mysql_server
from tests.support.pages import configure_django
from tests.support.postgres import Database
from tests.support.shop.project import shop

configure_django()

from django.db import connection, models, transaction  # noqa: E402

from scoreline.tasks.django.scoring.sending import send_waiting  # noqa: E402
from scoreline.tasks.django.scoring.signals import on_ended  # noqa: E402

INPUT = "s3://scoreline/in/"
HALF: SubmitOptions = {"max_rejected": "50%"}


class Guest(models.Model):
    name = models.CharField(max_length=40)
    x = models.DecimalField(max_digits=9, decimal_places=2)
    seen = models.DateTimeField(null=True)

    class Meta:
        app_label = "inn"


class GuestScore(models.Model):
    guest = models.OneToOneField(Guest, on_delete=models.CASCADE, primary_key=True)
    prediction = models.FloatField()
    note = models.CharField(max_length=40, default="")

    class Meta:
        app_label = "inn"


@pytest.fixture(scope="module")
def mysql() -> Iterator[dict[str, Any]]:
    with mysql_server() as settings:
        yield settings


@pytest.fixture(params=["postgres", "mysql"])
def prediction(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[type[Any]]:
    settings: dict[str, Any]
    if request.param == "mysql":
        settings = request.getfixturevalue("mysql")
        fresh_database(settings)
    else:
        database: Database = request.getfixturevalue("database")
        engine = "django.db.backends.postgresql"
        settings = {"ENGINE": engine, "NAME": database.name, "USER": "postgres", "HOST": "127.0.0.1"}
        settings["PORT"] = database.server.port
    with shop(tmp_path, settings) as model:
        forget()
        yield model
    forget()


@pytest.fixture
def scoreline(tmp_path: Path, prediction: type[Any]) -> Iterator[EagerClient]:
    with eager(tmp_path / "store") as found:
        line = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0])
        found.models.publish("double", line, alias="champion")
        found.put("in/a.csv", "x\n1\n2\noops\n")
        yield found


def test_a_row_of_scoring_is_submitted_by_its_commit_and_sent_again_after_an_outage(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction.atomic():
        prediction.submit("double", INPUT, customer="nobody", options=HALF)
        transaction.set_rollback(True)
    with transaction.atomic():
        row = prediction.submit("double@champion", INPUT, customer="Ann \N{PILE OF POO}", options=HALF)
        assert (row.state, list(scoreline.jobs())) == ("submitting", [])
    assert (row.state, row.rows, row.rejected) == ("partial", 2, 1)

    def away(*_: Any, **__: Any) -> None:
        raise QueueUnavailable("Redis is away")

    with monkeypatch.context() as outage:
        outage.setattr(scoreline.submission.queue, "ping", away)
        outage.setattr(type(scoreline), "submit", away)
        waiting = prediction.submit("double", INPUT, customer="bob", options=HALF)
    assert waiting.state == "submitting"
    assert (send_waiting().sent, send_waiting().sent) == (1, 0)
    found = prediction.objects.ended().order_by("pk").values_list("customer", "state", "rows")
    assert list(found) == [("Ann \N{PILE OF POO}", "partial", 2), ("bob", "partial", 2)]


def test_the_end_of_a_job_that_two_threads_see_at_once_is_recorded_once(
    prediction: type[Any], scoreline: EagerClient
) -> None:
    with eager(scoreline.folder, run=False) as later:
        row = prediction.submit("double", INPUT, customer="ann", options=HALF)
        later.run()
    ended: list[str] = []

    def hear(instance: Any, **_: Any) -> None:
        ended.append(instance.job_id)

    def refresh(_: int) -> bool:
        try:
            return bool(prediction.objects.get(pk=row.pk).refresh())
        finally:
            connection.close()

    on_ended.connect(hear, sender=prediction)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(refresh, range(4))) == [False, False, False, True]
    finally:
        on_ended.disconnect(hear, sender=prediction)
    assert ended == [row.job_id]


@pytest.mark.parametrize("prediction", ["mysql"], indirect=True)
def test_a_queryset_of_mysql_is_scored_and_its_results_are_written_into_a_model(
    prediction: type[Any], scoreline: EagerClient
) -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Guest)
        editor.create_model(GuestScore)
    seen = datetime(2026, 11, 29, 1, 2, 3, 4, tzinfo=UTC)
    Guest.objects.bulk_create(Guest(name=f"Ä\N{PILE OF POO}{n}", x=Decimal(n) / 4, seen=seen) for n in range(2_500))
    first, second = Guest.objects.order_by("pk")[:2]
    GuestScore.objects.create(guest=first, prediction=-1, note="stays")
    with transaction.atomic():
        Guest.objects.filter(pk=second.pk).update(x=100)
        job_id = client().submit_queryset(
            "double", Guest.objects.order_by("pk"), features=["x"], into=GuestScore, keep=["id"]
        )
        assert list(scoreline.jobs()) == []
    for _ in range(2):
        assert client().load_results(job_id, Guest, into=GuestScore) == 2_500
    found = GuestScore.objects.order_by("pk").values_list("guest__x", "prediction", "note")
    assert [abs(float(x) * 2 - score) < 1e-9 for x, score, _ in found] == [True] * 2_500
    assert [note for *_, note in found[:2]] == ["stays", ""]
    assert found[1][0] == 100
