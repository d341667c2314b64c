"""A queryset of a database of PostgreSQL is scored, and workers load the results into a model of the application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.tasks.django import client
from scoreline.testing import EagerClient, eager
from tests.support.one_model import LINE
from tests.support.pages import configure_django
from tests.support.postgres import Database

configure_django()

from django.db import connections, models, transaction  # noqa: E402


class Buyer(models.Model):
    x = models.FloatField()

    class Meta:
        app_label = "shop"


class Score(models.Model):
    buyer = models.OneToOneField(Buyer, on_delete=models.CASCADE, primary_key=True)
    value = models.FloatField()

    class Meta:
        app_label = "shop"


@pytest.fixture
def shop(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[EagerClient]:
    settings: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.name,
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": database.server.port,
    }
    given = connections.configure_settings({"default": {}, "shop": settings})
    monkeypatch.setattr(connections, "_settings", given)
    monkeypatch.setitem(connections.__dict__, "settings", given)
    monkeypatch.setattr("django.db.router.db_for_write", lambda model, **_: "shop")
    with connections["shop"].schema_editor() as editor:
        editor.create_model(Buyer)
        editor.create_model(Score)
    with eager(
        tmp_path / "store", settings={"RESULTS_DATABASE_URL": database.url, "ALLOWED_TABLES": "public.shop_*"}
    ) as found:
        found.models.publish("line", LINE)
        yield found
    connections["shop"].close()
    del connections["shop"]


def test_workers_load_the_results_of_a_queryset_into_a_model(shop: EagerClient, database: Database) -> None:
    buyers = Buyer.objects.using("shop")
    buyers.bulk_create(Buyer(x=number) for number in range(5_000))
    first = buyers.order_by("pk")[0].pk
    Score.objects.using("shop").create(buyer_id=first, value=-1)
    with transaction.atomic(using="shop"):
        buyers.filter(pk=first).update(x=100)
        job_id = client().submit_queryset(
            "line", buyers.all(), features={"x": "x"}, into=Score, fields={"value": "prediction"}
        )
    (load,) = client().status(job_id).loads
    assert (load.state, load.rows, load.error) == ("loaded", 5_000, "")
    wrong = (
        "SELECT count(*) FROM shop_score s JOIN shop_buyer b ON b.id = s.buyer_id WHERE abs(value - 2 * x - 1) < 1e-9"
    )
    assert database.run(wrong) == [(5_000,)]
