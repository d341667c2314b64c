"""Rows that other processes change meanwhile, in other databases, and in transactions that are still open."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import InvalidRequest, StoreUnavailable
from scoreline.tasks.django.scoring.observed import Observed, record
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.testing import EagerClient, eager

INPUT = "s3://scoreline/in/"
HALF: SubmitOptions = {"max_rejected": "50%"}


class ReadsElsewhere:
    """A router that reads from a replica."""

    def db_for_read(self, *_: Any, **__: Any) -> str:
        return "replica"

    def db_for_write(self, *_: Any, **__: Any) -> str:
        return "default"


def test_a_row_that_was_read_from_a_replica_is_changed_where_it_is_written(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    with override_settings(DATABASE_ROUTERS=[ReadsElsewhere()]):
        with eager(scoreline.folder, run=False) as later:
            job_id = prediction.submit("double", INPUT, customer="ann", options=HALF).job_id
            waiting = prediction(model="double", inputs=[INPUT], options=HALF, customer="bob")
            waiting.save()
            later.run()
        read = prediction.objects.get(job_id=job_id)
        assert read._state.db == "replica"
        assert read.refresh() is True
        assert prediction.objects.submitting().get().refresh() is True
    assert ends == [(job_id, "partial", 1), (waiting.job_id, "partial", 1)]


def test_two_processes_that_see_an_end_at_once_send_one_signal_for_a_model_of_two_tables(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    from tests.support.shop.models import Urgent

    with eager(scoreline.folder, run=False):
        row, same = Urgent.submit("double", INPUT, customer="ann", options=HALF), Urgent.objects.get()
    seen = Observed(state="failed", run=1, is_ended=True, ended=timezone.now())
    others: list[Urgent] = []

    def overtake(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and not others:
            others.append(same)
            assert record(same, seen) is True
        return execute(sql, *rest)

    with connection.execute_wrapper(overtake):
        assert record(row, seen) is False
    assert (len(others), ends) == (1, [(row.job_id, "failed", 1)])


def test_saving_what_was_read_before_an_end_does_not_undo_the_end(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    with eager(scoreline.folder, run=False) as later:
        row = prediction.submit("double", INPUT, customer="ann", options=HALF)
        later.run()
    prediction.objects.get().refresh()
    row.customer = "bob"
    row.save()
    saved = prediction.objects.get()
    assert (saved.customer, saved.state, saved.run) == ("bob", "partial", 1)
    assert saved.refresh() is False
    assert len(ends) == 1
    # And fields may be named, and a row may be copied, as of any other model
    row.customer, row.model = "eve", "other"
    row.save(update_fields=["model"])
    row.pk, row.job_id = None, "copied"
    row.save()
    assert [(each.customer, each.model) for each in prediction.objects.order_by("pk")] == [
        ("bob", "other"),
        ("eve", "other"),
    ]


def test_a_job_that_has_run_is_not_refused_because_its_model_is_gone(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the answer was lost")

    scoreline.models.publish("brief", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    with monkeypatch.context() as away:
        away.setattr(scoreline.submission.statuses, "of", lose)
        row = prediction.submit("brief", INPUT, customer="ann", options=HALF)
    assert row.state == "submitting"
    scoreline.submission.delete_model(scoreline.submission.registry.resolve("brief"))
    row.refresh()
    assert (row.error, ends) == ("", [(row.job_id, "partial", 1)])


def test_a_resumed_job_that_is_gone_ends_its_row_again(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    row = prediction(model="double", inputs=[INPUT], state="running", run=1, customer="ann")
    row.save()
    assert row.refresh() is True
    assert (row.state, row.run, row.is_under_way) == ("removed", 2, False)
    assert row.refresh() is False
    assert ends == [(row.job_id, "removed", 2)]
    # And a row that another process has seen to end keeps its end
    row = prediction(model="double", inputs=[INPUT], state="running", customer="ann")
    row.save()
    prediction.objects.filter(job_id=row.job_id).update(state="partial", run=1, ended=timezone.now())
    assert row.refresh() is False
    assert (row.state, len(ends)) == ("partial", 1)


def test_asking_for_a_job_before_the_commit_does_not_submit_it(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    with transaction.atomic():
        row = prediction.submit("double", INPUT, customer="ann", options=HALF)
        assert row.refresh() is False
        with pytest.raises(InvalidRequest, match="commit"):
            row.cancel()
        transaction.set_rollback(True)
    assert (list(scoreline.jobs()), prediction.objects.count(), ends) == ([], 0, [])
