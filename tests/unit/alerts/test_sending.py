"""Alerts are sent together, once to each recipient, and until every recipient has received them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import AlertUndelivered
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.alerts.recipients import FAILURES, Recipient
from scoreline.tasks.alerts.sending import GATHER, PATIENCE, QUIET_S, send_message, send_waiting
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.dispatch.outbox import Outbox
from scoreline.tasks.job.alert import EVENTS, Alert, Event

START = datetime(2026, 11, 29, 2, 31, tzinfo=UTC)
OPS, TEAM = (
    Recipient(name="ops", urls=("mailto://ops",)),
    Recipient(name="team", urls=("slack://t",), groups=("churn",)),
)


class People:
    """Two recipients, their clock, and the messages that they have received."""

    def __init__(self, folder: Path) -> None:
        self.main = DirectoryStore(folder, "scoreline")
        self.now = START
        self.ledger = MemoryLedger(clock=lambda: self.now.timestamp())
        self.settings = AlertSettings(recipients=(OPS, TEAM))
        self.away: set[str] = set()
        self.got: list[tuple[str, str, str]] = []

    def leave(self, name: str, event: Event = "failed", *, group: str = "churn", schedule: str = "") -> None:
        at = self.now.isoformat(timespec="seconds")
        alert = Alert(id=name, event=event, at=at, job_id=name, group=group, schedule=schedule, detail="No column.")
        Outbox(main=self.main, ledger=self.ledger, events=EVENTS).leave(alert)

    def send(self, urls: Sequence[str], title: str, body: str) -> None:
        if urls[0] in self.away:
            raise AlertUndelivered("away")
        self.got.append((urls[0], title, body))

    def round(self, *, after: timedelta = timedelta()) -> list[tuple[str, str]]:
        """Let time pass, run a round, and return the recipients and titles of its messages."""
        self.now += after
        before = len(self.got)
        sent = send_waiting(self.main, self.ledger, self.settings, self.now, self.send)
        assert sent == len(self.got) - before
        return [(url, title) for url, title, _ in self.got[before:]]

    def waiting(self) -> list[str]:
        return [info.key.removeprefix(keys.ALERTS) for info in self.main.list(keys.ALERTS)]


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


def test_an_alert_is_sent_to_each_recipient_once_and_deleted(people: People) -> None:
    people.leave("job-1")
    assert people.round() == []  # others of the same group may follow
    assert people.round(after=GATHER) == [
        ("mailto://ops", "Scoreline: churn failed"),
        ("slack://t", "Scoreline: churn failed"),
    ]
    assert people.waiting() == []
    people.leave("job-1")  # the end of a job may be recorded twice
    assert people.waiting() == []
    assert people.round(after=timedelta(hours=1)) == []


def test_alerts_of_a_group_are_sent_together_and_then_at_most_every_ten_minutes(people: People) -> None:
    for number in range(3):
        people.leave(f"job-{number}")
    people.leave("slot-1", "missed", schedule="nightly")
    assert people.round(after=GATHER) == [
        ("mailto://ops", "Scoreline: churn: 3 failed"),
        ("mailto://ops", "Scoreline: nightly was missed"),
        ("slack://t", "Scoreline: churn: 3 failed"),
        ("slack://t", "Scoreline: nightly was missed"),
    ]
    people.leave("job-8")
    people.leave("job-9", "blocked")
    assert people.round(after=timedelta(seconds=QUIET_S - 1)) == []
    assert people.round(after=GATHER)[0] == ("mailto://ops", "Scoreline: churn: 1 failed, 1 was blocked by its checks")


def test_a_recipient_who_is_away_is_told_later_and_the_others_are_not_told_again(people: People) -> None:
    people.leave("job-1")
    people.away.add("mailto://ops")
    assert people.round(after=GATHER) == [("slack://t", "Scoreline: churn failed")]
    assert people.waiting() == ["job-1.json"]
    people.away.clear()
    assert people.round(after=timedelta(seconds=QUIET_S)) == [("mailto://ops", "Scoreline: churn failed")]
    assert people.waiting() == []


def test_two_rounds_side_by_side_tell_nobody_twice(people: People) -> None:
    """A slow service holds a round up, and another process begins the next one."""
    people.leave("job-1")
    people.now += GATHER
    send = people.send
    inner: list[Sequence[str]] = []

    def slow(urls: Sequence[str], title: str, body: str) -> None:
        send(urls, title, body)
        if not inner:
            inner.append(urls)
            people.now += timedelta(seconds=30)
            people.round()

    people.send = slow  # type: ignore[method-assign]
    send_waiting(people.main, people.ledger, people.settings, people.now, slow)
    people.round(after=timedelta(seconds=QUIET_S))
    people.round(after=timedelta(seconds=QUIET_S))
    assert sorted(url for url, _, _ in people.got) == ["mailto://ops", "slack://t"]
    assert people.waiting() == []


def test_alerts_that_one_recipient_cannot_be_told_of_do_not_hold_up_others(people: People) -> None:
    people.away.add("slack://t")
    for number in range(105):
        people.leave(f"job-{number:03}")
    people.now += GATHER
    for _ in range(15):
        people.round(after=timedelta(seconds=QUIET_S))
    received = [Alert.from_json(people.main.get(info.key).data).received for info in people.main.list(keys.ALERTS)]
    assert received == [("ops",)] * 105


def test_a_group_may_be_called_like_the_file_with_the_schedules(people: People) -> None:
    people.leave("job-1", group="schedules.toml")
    people.leave("faults", "schedules", group="")
    assert [title for _, title in people.round(after=GATHER)] == [
        "Scoreline: the schedules have a mistake",
        "Scoreline: schedules.toml failed",
        "Scoreline: the schedules have a mistake",
    ]


def test_after_a_day_an_alert_is_given_up_and_logged(people: People, caplog: pytest.LogCaptureFixture) -> None:
    people.leave("job-1")
    people.away.add("mailto://ops")
    people.round(after=GATHER)
    assert people.round(after=PATIENCE) == []
    assert people.waiting() == []
    (record,) = [record for record in caplog.records if record.msg == "alert.undelivered"]
    assert record.recipients == ["ops"]  # type: ignore[attr-defined]


def test_alerts_survive_a_redis_that_is_emptied(people: People) -> None:
    people.leave("job-1")
    people.ledger = MemoryLedger(clock=lambda: people.now.timestamp())
    assert len(people.round(after=GATHER)) == 2


def test_the_bucket_is_not_listed_while_no_flag_says_that_alerts_wait(people: People) -> None:
    people.round()
    people.main.put(keys.alert("job-1"), Alert(id="job-1", event="failed", at=START.isoformat()).to_json())
    assert people.round(after=timedelta(minutes=5)) == []
    assert len(people.round(after=timedelta(minutes=5))) == 1


def test_an_alert_that_nobody_wants_is_not_written(people: People) -> None:
    outbox = Outbox(main=people.main, ledger=people.ledger, events=FAILURES)
    outbox.leave(Alert(id="a", event="succeeded", at=START.isoformat()))
    assert people.waiting() == []


def test_an_alert_that_cannot_be_read_does_not_hold_up_others(people: People, caplog: pytest.LogCaptureFixture) -> None:
    people.main.put(keys.alert("aaa"), b"{")
    people.leave("job-1")
    assert len(people.round(after=GATHER)) == 2
    assert people.waiting() == ["aaa.json"]
    assert "alert.unreadable" in [record.msg for record in caplog.records]


def test_old_objects_that_say_what_was_sent_are_deleted(people: People) -> None:
    people.leave("job-1")
    people.now = datetime.now(UTC)  # objects of a local store have the time of their file
    people.round(after=GATHER)
    assert len(list(people.main.list(keys.ALERTS_SENT))) == 1
    people.round(after=timedelta(days=31))
    assert list(people.main.list(keys.ALERTS_SENT)) == []


def test_a_message_tells_what_happened_and_where_to_look(people: People) -> None:
    people.leave("job-1", schedule="nightly")
    people.round(after=GATHER)
    assert people.got[0][2] == (
        "2026-11-29 02:31 UTC: The job job-1 of the schedule nightly failed. No column. See `scoreline status job-1`."
    )
    people.settings = AlertSettings(recipients=(OPS,), web_url="https://example.org/scoreline")
    people.leave("job-2")
    people.round(after=GATHER)
    assert people.got[-1][2].endswith("See https://example.org/scoreline/jobs/job-2/")


@pytest.mark.parametrize("url", ["hush", "nosuch://hush@host", "mailto://"])
def test_an_address_that_apprise_does_not_know_is_an_error_that_does_not_quote_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AlertUndelivered, match="address 1 of 1 is none that Apprise knows") as caught:
        send_message([url], "title", "body")
    assert "hush" not in str(caught.value)
    assert "hush" not in caplog.text
