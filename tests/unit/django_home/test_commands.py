"""`manage.py scoreline_resend`, and how `manage.py scoreline` tells the options of Django from its own."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from scoreline.storage.errors import StoreUnavailable
from scoreline.tasks.django.management.commands.scoreline import split
from scoreline.tasks.django.scoring.signals import on_ended
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
