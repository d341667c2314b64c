"""People hear of slots that are missed, refused or late, of mistakes in the file, and monitors hear of every end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import DeadlinePassed, MissingColumns, StoreUnavailable
from scoreline.tasks.alerts.recipients import Recipient
from scoreline.tasks.alerts.sending import GATHER, read_waiting, send_waiting
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, fail_job
from scoreline.tasks.job.alert import EVENTS, Alert
from scoreline.tasks.schedules import runner
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.support.receiver import Receiver, receiving
from tests.unit.schedules.conftest import BEFORE, GOOD, JOB, MORNING, NIGHTLY, SLOT, Night, at

MISSPELT = NIGHTLY.replace("churn@champion", "chrun@champion")
DEADLINE = NIGHTLY + 'deadline = "06:00"\n'
SIX = at("2026-11-25T05:00")
"""Six o'clock in Berlin, on the morning after `SLOT`."""


@pytest.fixture
def night(make: Callable[..., Night]) -> Night:
    return alerting(make())


def alerting(night: Night) -> Night:
    """Let people hear of everything."""
    night.client.submission.dispatcher.alerts = EVENTS
    return night


def waiting(night: Night) -> list[Alert]:
    return sorted(read_waiting(night.client.buckets.main), key=lambda alert: alert.at)


def test_a_refused_slot_is_told_with_its_reason(night: Night) -> None:
    night.write(MISSPELT)
    night.tick(SLOT)
    (alert,) = waiting(night)
    assert (alert.event, alert.schedule, alert.slot) == ("refused", "nightly", SLOT.isoformat())
    assert "no model 'chrun'" in alert.detail


def test_a_slot_that_is_not_run_because_the_clock_was_down_is_told_as_missed(night: Night) -> None:
    night.write(NIGHTLY + 'catch_up = "none"\n')
    night.tick(MORNING)
    assert [(alert.event, alert.slot) for alert in waiting(night)] == [("missed", SLOT.isoformat())]


def test_the_end_of_a_slots_job_is_told_once_and_without_values(make: Callable[..., Night]) -> None:
    night = alerting(make(run=False))
    night.tick(SLOT)
    dispatcher = night.client.submission.dispatcher
    fail_job(dispatcher, JOB, MissingColumns("in/a.parquet has no column 'tenure', but 'hush'"))
    clean_up_if_ended(dispatcher, JOB)
    night.tick(MORNING)
    (alert,) = waiting(night)
    assert (alert.event, alert.job_id, alert.schedule, alert.group) == ("failed", JOB, "nightly", "churn")
    assert alert.detail == "an input object lacks columns that the model needs"
    # A message of the clock or of the reconciler may come again after the alert was sent
    settings = AlertSettings(recipients=(Recipient(name="ops", urls=("x://",)),))
    got: list[str] = []
    send_waiting(
        night.client.buckets.main,
        night.client.ledger,
        settings,
        datetime.fromisoformat(alert.at) + GATHER,
        lambda urls, title, body: got.append(title),
    )
    assert got == ["Scoreline: nightly failed"]
    clean_up_if_ended(dispatcher, JOB)
    assert waiting(night) == []


def test_a_job_that_its_deadline_has_ended_is_late(make: Callable[..., Night]) -> None:
    night = alerting(make(run=False))
    night.tick(SLOT)
    fail_job(night.client.submission.dispatcher, JOB, DeadlinePassed("the deadline has passed"))
    (alert,) = waiting(night)
    assert (alert.event, alert.job_id) == ("late", JOB)


def test_the_death_of_a_tick_before_its_state_is_written_loses_no_alert(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.write(MISSPELT)
    put = type(night.client.buckets.main).put

    def dying(self: Any, key: str, *args: Any, **options: Any) -> Any:
        if key == keys.schedule_state("nightly") and b"refused" in args[0]:
            raise StoreUnavailable("cut off")
        return put(self, key, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(night.client.buckets.main), "put", dying)
        night.tick(SLOT)
    assert [alert.event for alert in waiting(night)] == ["refused"]
    night.tick(SLOT)
    assert [alert.event for alert in waiting(night)] == ["refused"]


@pytest.fixture
def slow(make: Callable[..., Night]) -> Night:
    """Return a deployment whose jobs are not run."""
    night = alerting(make(run=False))
    night.write(DEADLINE)
    return night


def test_a_slot_that_has_not_ended_by_the_time_of_day_is_late_and_goes_on(slow: Night) -> None:
    slow.tick(SLOT)
    slow.tick(SIX - timedelta(seconds=1))
    assert waiting(slow) == []
    scheduler = slow.scheduler()
    scheduler.tick(SIX)
    scheduler.tick(SIX + timedelta(hours=1))
    (alert,) = waiting(slow)
    assert (alert.event, alert.slot) == ("late", SLOT.isoformat())
    assert alert.detail == "Its job has not ended by 06:00."
    assert slow.state().current == SLOT.isoformat()
    assert slow.client.status(JOB).state == "submitted"


def test_a_slot_that_waits_for_another_is_late_too(slow: Night) -> None:
    slow.write(DEADLINE + 'overlap = "queue"\n')
    slow.tick(SLOT)
    slow.tick(SLOT + timedelta(days=1))
    slow.tick(SIX + timedelta(days=1))
    assert {alert.detail for alert in waiting(slow)} == {
        "Its job has not ended by 06:00.",
        "Its job has not begun by 06:00.",
    }


def test_a_slot_that_waits_since_before_a_pause_is_late_because_it_still_runs(slow: Night) -> None:
    slow.write(DEADLINE + 'overlap = "queue"\n')
    slow.tick(SLOT)
    slow.tick(SLOT + timedelta(days=1))
    scheduler = slow.scheduler()
    scheduler.pause(scheduler.get("nightly"), "the input is wrong", SLOT + timedelta(days=1, hours=1))
    slow.tick(SIX + timedelta(days=1))
    assert {alert.detail for alert in waiting(slow)} == {
        "Its job has not ended by 06:00.",
        "Its job has not begun by 06:00.",
    }
    slow.tick(SIX + timedelta(days=3))  # slots that are due while the schedule is paused are left out
    assert len(waiting(slow)) == 2


def test_a_slot_that_a_user_asks_for_later_is_not_late(slow: Night) -> None:
    scheduler = slow.scheduler()
    schedule = scheduler.get("nightly")
    scheduler.ask(schedule, [SLOT - timedelta(days=3)], MORNING - timedelta(days=1))
    slow.tick(MORNING - timedelta(days=1) + timedelta(minutes=1))
    assert slow.state().current == (SLOT - timedelta(days=3)).isoformat()
    assert waiting(slow) == []


@pytest.mark.parametrize(
    ("slot", "due"),
    [
        (SLOT, SIX),
        (at("2026-11-25T05:00"), at("2026-11-26T05:00")),
        (at("2026-03-28T23:30"), at("2026-03-29T04:00")),  # the clock jumps ahead in between
    ],
)
def test_the_deadline_is_the_next_such_time_of_day_in_the_zone_of_the_schedule(
    slow: Night, slot: datetime, due: datetime
) -> None:
    assert slow.scheduler().get("nightly").due_by(slot) == due


@pytest.mark.parametrize("deadline", ["6:00", "24:00", "06:60", "06:00:00", "six"])
def test_what_is_no_time_of_day_is_a_fault_of_the_file(night: Night, deadline: str) -> None:
    night.write(NIGHTLY + f'deadline = "{deadline}"\n')
    result = night.cli("check")
    assert result.exit_code == 1
    assert f"deadline '{deadline}' is neither a duration such as" in result.output


def test_a_mistake_in_the_file_is_told_once_until_it_changes(night: Night) -> None:
    night.write(NIGHTLY.replace("30 2", "30 25"))
    night.tick(BEFORE + timedelta(minutes=1))
    night.tick(BEFORE + timedelta(minutes=2))
    (alert,) = waiting(night)
    assert alert.event == "schedules"
    assert "line 3: [nightly] cron = '30 25 * * *'" in alert.detail
    night.write(NIGHTLY.replace("30 2", "61 2"))
    night.tick(BEFORE + timedelta(minutes=3))
    assert len(waiting(night)) == 2


def test_a_mistake_in_the_alerts_stops_no_schedule(make: Callable[..., Night]) -> None:
    night = make()
    (night.folder / "alerts.toml").write_text("[ops")
    result = night.cli("tick")
    assert "nightly: submitted nightly-" in result.output
    assert result.exit_code == 1
    assert "alerts.toml line 1: is not TOML" in str(result.exception) + result.output


@pytest.fixture
def monitor() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.mark.parametrize(
    ("path", "alias", "called"),
    [
        ("/ping", "@champion", "/ping/fail"),
        ("/ping", "", "/ping"),
        ("/cron?status={status}", "@champion", "/cron?status=error"),
        ("/ping?create=1", "@champion", "/ping/fail?create=1"),
        ("/ping/?create=1", "", "/ping/?create=1"),
    ],
)
def test_a_monitor_is_called_when_a_slot_has_ended(
    make: Callable[..., Night], monitor: Receiver, path: str, alias: str, called: str
) -> None:
    night = make(ALLOWED_WEBHOOKS=monitor.url)
    night.client.models.publish("churn", GOOD, alias="good")
    model = "churn@champion" if alias else "churn@good"
    night.write(NIGHTLY.replace("churn@champion", model) + f'check_in = "{monitor.url}{path}"\n')
    night.tick(SLOT)
    night.tick(MORNING)
    night.tick(MORNING)
    assert monitor.paths == [called]


def test_a_monitor_that_is_busy_is_called_again(make: Callable[..., Night], monitor: Receiver) -> None:
    night = make(ALLOWED_WEBHOOKS=monitor.url)
    monitor.answers["/ping/fail"] = [503]
    night.write(NIGHTLY + f'check_in = "{monitor.url}/ping"\n')
    night.tick(SLOT)
    night.tick(MORNING)
    assert monitor.paths == ["/ping/fail", "/ping/fail"]


def test_a_slow_monitor_holds_up_no_other_schedule(make: Callable[..., Night], monkeypatch: pytest.MonkeyPatch) -> None:
    night = make()
    night.write(NIGHTLY + 'check_in = "https://hc.example/ping"\n' + NIGHTLY.replace("nightly", "other"))
    night.tick(BEFORE + timedelta(minutes=1))
    night.tick(SLOT)
    seen: list[tuple[str, str]] = []

    def slow(url: str, webhooks: Any, schedule: str, state: str) -> None:
        seen.append((state, night.state("other").through))

    monkeypatch.setattr(runner, "check_in", slow)
    following = SLOT + timedelta(days=1)
    night.tick(following)
    assert seen == [("failed", following.isoformat())]


def test_a_monitor_that_is_not_allowed_is_not_called(
    make: Callable[..., Night], monitor: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    night = make()
    night.write(NIGHTLY + f'check_in = "{monitor.url}/ping"\n')
    night.tick(SLOT)
    night.tick(MORNING)
    assert monitor.paths == []
    (record,) = [record for record in caplog.records if record.msg == "check_in.failed"]
    assert "is not within ALLOWED_WEBHOOKS" in record.error  # type: ignore[attr-defined]


def test_a_scheduler_without_recipients_writes_no_alert(make: Callable[..., Night]) -> None:
    night = make()
    night.write(MISSPELT)
    Scheduler(night.client, night.folder / "none").tick(SLOT)
    assert list(night.client.buckets.main.list(keys.ALERTS)) == []
