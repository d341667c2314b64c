"""A slot whose job is refused counts as failed: in the log, in metrics, in the list and for webhooks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from scoreline.storage.errors import StoreUnavailable, WebhookRefused, WebhookUnavailable
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.webhooks.delivery import Notification
from tests.unit.schedules.conftest import HOURLY, JOB, MORNING, NIGHTLY, SLOT, Night

MISSPELT = NIGHTLY.replace("churn@champion", "chrun@champion")
WEBHOOKS = {"WEBHOOK_URL": "https://example.org/all", "ALLOWED_WEBHOOKS": "https://example.org/hooks/"}
REFUSALS = {
    "a misspelt model": (MISSPELT, "no model 'chrun'"),
    "a misspelt alias": (NIGHTLY.replace("@champion", "@chamption"), "no alias 'chamption'"),
    "a bucket that is not allowed": (NIGHTLY.replace("s3://scoreline/", "s3://theirs/"), "bucket 'theirs' is not in"),
    "results within the input": (NIGHTLY.replace("/in/", "/results/"), "lies within input"),
    "a webhook that is not allowed": (NIGHTLY + 'webhook = "https://elsewhere.example/"\n', "ALLOWED_WEBHOOKS"),
}
"""Valid schedules whose jobs are refused, and the reason for each refusal."""
refused = pytest.mark.parametrize(("text", "reason"), REFUSALS.values(), ids=REFUSALS)


@pytest.fixture
def night(make: Callable[..., Night]) -> Night:
    """Return a deployment with a default webhook."""
    return make(**WEBHOOKS)


def sent(night: Night) -> list[tuple[str, str, str]]:
    return [(item.url, item.id, item.body["type"]) for item in night.client.notifications]


@refused
def test_a_refused_slot_is_a_failed_one(night: Night, text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[BaseException, dict[str, Any]]] = []
    night.write(text)
    # When the job of a slot is refused
    (done,) = Scheduler(night.client, night.folder / "none", on_fault=lambda e, **at: seen.append((e, at))).tick(SLOT)[
        "nightly"
    ]
    # Then the log, the telemetry, the metrics, the list and the webhook report the refusal
    assert done.startswith(f"refused {JOB}: ")
    (record,) = [record for record in caplog.records if record.msg == "schedule.refused"]
    assert (record.levelname, reason in record.error) == ("ERROR", True)  # type: ignore[attr-defined]
    ((error, where),) = seen
    assert (reason in str(error), where) == (True, {"job_id": JOB})
    assert night.client.ledger.counters.read().jobs["failed"] == 1
    (row,) = night.scheduler().rows(SLOT)
    assert (row.outcome, row.last, reason in row.error) == ("refused", SLOT.isoformat(), True)
    assert sent(night) == [("https://example.org/all", f"{JOB}.1", "job.failed")]
    data = night.client.notifications[0].body["data"]
    assert (data["job_id"], data["state"], data["reason"], reason in data["error"]) == (JOB, "failed", "request", True)
    # And a later tick does not report the refusal again
    assert night.tick(MORNING) == {"nightly": []}
    assert len(sent(night)) == night.client.ledger.counters.read().jobs["failed"] == 1


def test_the_webhook_of_the_schedule_comes_before_the_default_one(night: Night) -> None:
    night.write(MISSPELT + 'webhook = "https://example.org/hooks/a"\n')
    night.tick(SLOT)
    assert sent(night) == [("https://example.org/hooks/a", f"{JOB}.1", "job.failed")]


def test_without_a_webhook_nothing_is_sent_or_kept(make: Callable[..., Night]) -> None:
    night = make()
    night.write(MISSPELT)
    night.tick(SLOT)
    assert (sent(night), night.state().refusals) == ([], ())


class Receiver:
    """A webhook receiver that raises these errors, one at each call, and then accepts notifications."""

    def __init__(self, night: Night, *errors: Exception) -> None:
        self.calls: list[str] = []
        self._errors = list(errors)
        night.client.send_webhook = self

    def __call__(self, url: str, notification: Notification, secret: str) -> None:
        self.calls.append(notification.id)
        if self._errors:
            raise self._errors.pop(0)


def test_a_receiver_that_is_busy_is_tried_again_at_each_tick_and_for_an_hour(night: Night) -> None:
    busy = WebhookUnavailable("https://example.org answered 503")
    receiver = Receiver(night, busy, busy, busy, busy, busy)
    night.write(MISSPELT + HOURLY)
    night.tick(SLOT)
    night.tick(SLOT + timedelta(minutes=1))
    assert (len(receiver.calls), len(night.state().refusals)) == (2, 1)
    night.tick(SLOT + timedelta(minutes=61))
    assert (len(receiver.calls), night.state().refusals) == (3, ())
    night.tick(SLOT + timedelta(minutes=62))
    assert receiver.calls == [f"{JOB}.1"] * 3


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (WebhookUnavailable("https://example.org answered 503"), 2),
        (WebhookRefused("https://example.org answered 410"), 1),
    ],
)
def test_a_webhook_is_settled_once_it_is_delivered_or_refused(night: Night, error: Exception, attempts: int) -> None:
    receiver = Receiver(night, error)
    night.write(MISSPELT)
    for minute in range(3):
        night.tick(SLOT + timedelta(minutes=minute))
    assert len(receiver.calls) == attempts


def test_nothing_is_sent_unsigned(make: Callable[..., Night], caplog: pytest.LogCaptureFixture) -> None:
    night = make(**WEBHOOKS | {"WEBHOOK_SECRET": ""})
    receiver = Receiver(night)
    night.write(MISSPELT)
    night.tick(SLOT)
    assert (receiver.calls, night.state().refusals) == ([], ())
    assert "event.undelivered" in {record.msg for record in caplog.records if record.levelname == "ERROR"}


def test_a_slot_that_is_refused_on_request_is_a_failed_one_too(night: Night) -> None:
    night.write(MISSPELT + "enabled = false\n")
    said = night.cli("run", "nightly", "--at", "2026-11-24T02:30")
    assert (said.exit_code, "refused nightly-20261124T013000Z: no model 'chrun'" in said.stdout) == (1, True)
    assert sent(night) == [("https://example.org/all", "nightly-20261124T013000Z.1", "job.failed")]


def test_a_refused_slot_runs_once_what_it_names_is_there(night: Night) -> None:
    night.write(MISSPELT)
    night.tick(SLOT)
    night.write(NIGHTLY.replace("@champion", "") + "enabled = false\n")
    said = night.cli("run", "nightly", "--at", "2026-11-25T02:30")
    assert f"submitted {JOB}" in said.stdout


# Tests of `scoreline schedule check`, which reports a refusal in advance


@refused
def test_check_reports_a_schedule_whose_job_would_be_refused_now(night: Night, text: str, reason: str) -> None:
    night.write(NIGHTLY)
    assert night.cli("check").exit_code == 0
    night.write(text)
    said = night.cli("check")
    assert (said.exit_code, reason in said.stderr) == (1, True)
    line = 7 if "webhook" in text else 6 if "/in/" not in text or "theirs" in text else 5
    assert said.stderr.startswith(f"s3://scoreline/schedules.toml: line {line}: [nightly] "), said.stderr


def test_check_refuses_a_method_that_the_model_does_not_have(night: Night) -> None:
    night.write(NIGHTLY + 'method = "predict_proba"\n')
    said = night.cli("check")
    assert (said.exit_code, "line 7: [nightly] method = 'predict_proba': model 'model' of churn@" in said.stderr) == (
        1,
        True,
    )


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        ("churn@challenger", "has no alias"),
        ("absent", "absent"),
        ("churn", "and so is the model: name another version"),
    ],
)
def test_check_looks_up_the_challenger(night: Night, challenger: str, reason: str) -> None:
    night.write(NIGHTLY + f'challenger = "{challenger}"\n')
    said = night.cli("check")
    assert said.exit_code == 1
    assert f"line 7: [nightly] challenger = '{challenger}': " in said.stderr
    assert reason in said.stderr


def test_check_skips_models_to_be_published_later_and_disabled_schedules(night: Night) -> None:
    night.write(NIGHTLY.replace("churn@champion", "churn-{slot:%Y-%m}"))
    assert night.cli("check").exit_code == 0
    night.write(MISSPELT + "enabled = false\n")
    assert night.cli("check").exit_code == 0


def test_check_fails_if_the_bucket_cannot_be_asked(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(ref: str) -> None:
        raise StoreUnavailable("cannot read s3://scoreline/models/: timeout")

    monkeypatch.setattr(night.client.registry, "resolve", resolve)
    said = night.cli("check")
    assert (said.exit_code, "models and buckets could not be checked: cannot read" in said.stderr) == (1, True)


def test_check_reads_a_file_where_no_bucket_is_set(
    night: Night, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("scoreline.tasks.client.stand_in_client", lambda: None)
    night.environ["ENVIRONMENT"] = ""
    (night.folder / "mine.toml").write_text(MISSPELT)
    said = night.cli("check", "mine.toml")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("nightly: next ")
    assert said.stderr.startswith("models and buckets were not checked: invalid settings: ")
