"""`manage.py scoreline_resend`, the options of `manage.py scoreline`, and the actions of the admin."""

from __future__ import annotations

import io
import os
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.core.management import CommandError, call_command

from scoreline.storage.errors import StoreUnavailable
from scoreline.tasks.django.management.commands.scoreline import split
from scoreline.tasks.django.scoring.admin import ScoringAdmin
from scoreline.tasks.django.scoring.signals import on_ended
from scoreline.tasks.job.documents import Outcome, claim_end
from scoreline.testing import EagerClient, eager

INPUT = "s3://scoreline/in/"


@pytest.mark.parametrize(
    ("words", "left", "given"),
    [
        (["jobs", "--json"], ["jobs", "--json"], set()),
        (["--settings=a.b", "jobs"], ["jobs"], set()),
        (["jobs", "--settings", "a.b", "--pythonpath=/x", "--limit", "3"], ["jobs", "--limit", "3"], set()),
        (["-v", "2", "--no-color", "--traceback", "status", "a"], ["status", "a"], {"-v", "--no-color", "--traceback"}),
        (["--verbosity=2", "--skip-checks", "--help"], ["--help"], {"--verbosity", "--skip-checks"}),
        (["submit", "m", "--no-color"], ["submit", "m", "--no-color"], set()),
        (["dev", "--", "x", "--settings", "a"], ["dev", "--", "x", "--settings", "a"], set()),
        (["jobs", "--settings"], ["jobs"], set()),
    ],
)
def test_options_of_django_are_left_out_and_others_are_kept(words: list[str], left: list[str], given: set[str]) -> None:
    assert split(words) == (left, given)


def test_a_command_in_a_thread_leaves_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    environ, argv = dict(os.environ), list(sys.argv)
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: pytest.fail("it ran in this process"))
    outs = [io.StringIO() for _ in range(2)]

    def call(out: io.StringIO) -> str:
        call_command("scoreline", "models", "--help", stdout=out)
        try:
            call_command("scoreline", "no-such-command", stdout=out, stderr=out)
        except CommandError as error:
            return f"{error} ({error.returncode})"
        return "no error"

    with ThreadPoolExecutor(2) as threads:
        said = list(threads.map(call, outs))
        with pytest.raises(CommandError, match="serves the pages itself"):
            threads.submit(call_command, "scoreline", "web").result()
    assert said == ["scoreline ended with 2 (2)"] * 2
    for out in outs:
        assert out.getvalue().startswith("Usage: python -m scoreline models")
        assert "no-such-command" in out.getvalue()
    assert (dict(os.environ), list(sys.argv)) == (environ, argv)


def test_resend_goes_on_behind_a_row_whose_receiver_fails(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with eager(scoreline.folder, run=False) as later:
        for name in ("ann", "bob"):
            prediction.submit("double", INPUT, customer=name, options={"max_rejected": "50%"})
        later.run()

    def fail(instance: Any, **_: Any) -> None:
        if instance.customer == "ann":
            raise RuntimeError("the receiver failed")

    on_ended.connect(fail, sender=prediction)
    try:
        with pytest.raises(CommandError, match=r"^RuntimeError: the receiver failed"):
            call_command("scoreline_resend", "--refresh", stdout=(out := io.StringIO()))
    finally:
        on_ended.disconnect(fail, sender=prediction)
    assert out.getvalue() == "0 jobs submitted, 0 refused, 1 ended\n"
    assert [row.customer for row in prediction.objects.under_way()] == ["ann"]

    def away(*_: Any) -> None:
        raise StoreUnavailable("the bucket is away")

    with monkeypatch.context() as outage:
        outage.setattr(scoreline, "status", away)
        with pytest.raises(CommandError, match=r"^the bucket is away"):
            call_command("scoreline_resend", "--refresh", stdout=io.StringIO())
    call_command("scoreline_resend", "--refresh", stdout=io.StringIO())
    assert prediction.objects.under_way().count() == 0


def test_an_action_of_the_admin_says_how_many_rows_it_left_out(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ScoringAdmin, "message_user", lambda self, request, text, *_: said.append(text))
    rows = [prediction(model="double", inputs=[INPUT], state="running", customer="ann") for _ in range(103)]
    prediction.objects.bulk_create(rows)
    request: Any = SimpleNamespace(user=SimpleNamespace(get_username=lambda: "boss"))
    ScoringAdmin(prediction, AdminSite()).refresh(request, prediction.objects.all())
    assert said == ["100 jobs refreshed.", "3 jobs left out: an action takes at most 100 at once."]
    assert prediction.objects.under_way().count() == 3


def test_the_admin_does_not_call_a_job_cancelled_that_has_ended_or_is_about_to_end(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ScoringAdmin, "message_user", lambda self, request, text, *_: said.append(text))
    with eager(scoreline.folder, run=False) as later:
        # Given a job that has ended since its row was written
        ended = prediction.submit("double", INPUT, customer="ann", options={"max_rejected": "50%"})
        later.run()
        # And one that waits for a worker
        waits, late = (prediction.submit("double", INPUT, customer="ann") for _ in range(2))
    # And one whose success is claimed, and not yet written
    success = Outcome(state="succeeded", rows=2, rejected=0, parts=1, parts_done=1, failures={}, run=1)
    claim_end(scoreline.buckets.main, late.job_id, success)
    request: Any = SimpleNamespace(user=SimpleNamespace(get_username=lambda: "boss"), POST={"confirmed": "yes"})
    ScoringAdmin(prediction, AdminSite()).cancel(request, prediction.objects.all())
    assert sorted(said) == sorted(
        [
            "1 job cancelled.",
            f"{late.job_id} is not cancelled: all of its parts are scored, and its results are being completed.",
            f"{ended.job_id} is not cancelled: it has ended: partial.",
        ]
    )
    waits.refresh_from_db()
    assert waits.state == "cancelled"
