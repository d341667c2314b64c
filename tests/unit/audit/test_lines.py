"""Each change that a person makes is in the audit, before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import audit, keys
from scoreline.storage.audit import AuditLine, acting_as
from scoreline.storage.errors import ModelInUse, NothingToResume, PreconditionFailed, ScorelineError, StoreUnavailable
from scoreline.storage.models import signatures
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.job.documents import read_run
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.support.line_jobs import Desk, desk
from tests.support.one_model import LINE

UNENCODABLE = "\udcff"
"""How Python shows a byte of the environment that is not UTF-8."""
HOURLY = '[hourly]\ncron = "0 * * * *"\nmodel = "line"\ninput = "s3://scoreline/in/"\n'
SLOT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def lines(store: ObjectStore, **chosen: Any) -> list[AuditLine]:
    return list(read_audit(store, AuditFilter(**chosen), 1_000))


def version(at: Desk) -> str:
    return at.client.models.publish("line", LINE).version


def hourly(at: Desk, text: str = HOURLY) -> Scheduler:
    at.client.buckets.main.put(keys.SCHEDULES, text.encode())
    return Scheduler(at.client, Path("no-such-file.toml"))


def cancel(at: Desk) -> str:
    job_id = at.plan()
    at.client.cancel(job_id)
    return job_id


def resume(at: Desk) -> str:
    job_id = cancel(at)
    at.client.resume(job_id)
    return job_id


def resume_rejected(at: Desk) -> str:
    job_id = at.plan(broken=(1,))
    at.score(job_id, 0)
    at.client.cancel(job_id)
    assert at.client.resume_rejected(job_id).job_id == f"{job_id}-rejected-1"
    return job_id


def publish(at: Desk) -> str:
    return f"line@{version(at)}"


def set_alias(at: Desk) -> str:
    at.client.models.alias("line", "champion", version(at))
    return "line@champion"


def roll_back(at: Desk) -> str:
    set_alias(at)
    at.client.registry.alias("line", "champion", version(at))
    at.client.registry.rollback("line", "champion")
    return "line@champion"


def delete(at: Desk) -> str:
    pinned = at.client.registry.resolve(f"line@{version(at)}")
    at.client.delete_model(pinned)
    return pinned.ref


def sign(at: Desk) -> str:
    pinned = at.client.registry.resolve(f"line@{version(at)}")
    ModelRegistry(at.client.buckets.main).sign(pinned.ref, signatures.generate_keys()[0], sha256=pinned.manifest_sha256)
    return pinned.ref


def run_slot(at: Desk) -> str:
    scheduler = hourly(at)
    scheduler.ask(scheduler.get("hourly"), [SLOT], SLOT)
    return "hourly"


def add_schedule(at: Desk) -> str:
    hourly(at, "").tick(SLOT)
    hourly(at).tick(SLOT)
    return "hourly"


def change_schedule(at: Desk) -> str:
    hourly(at).tick(SLOT)
    hourly(at, HOURLY + 'keep = "none"\n').tick(SLOT)
    return "hourly"


def remove_schedule(at: Desk) -> str:
    hourly(at).tick(SLOT)
    hourly(at, "").tick(SLOT)
    return "hourly"


CHANGES: dict[str, Callable[[Desk], str]] = {
    "job.cancel": cancel,
    "job.resume": resume,
    "job.resume-rejected": resume_rejected,
    "model.publish": publish,
    "model.sign": sign,
    "model.delete": delete,
    "alias.set": set_alias,
    "alias.rollback": roll_back,
    "schedule.run": run_slot,
    "schedule.add": add_schedule,
    "schedule.change": change_schedule,
    "schedule.remove": remove_schedule,
}


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_is_in_the_audit(at: Desk, action: str) -> None:
    with acting_as("alice", "laptop"):
        target = CHANGES[action](at)
    (line,) = lines(at.client.buckets.main, action=action, target=target)
    assert (line.action, line.target) == (action, target)
    if action in ("schedule.add", "schedule.change", "schedule.remove"):
        assert line.who == "whoever changed s3://scoreline/schedules.toml"  # a tick cannot know more
    else:
        assert (line.who, line.where) == ("alice", "laptop")


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_whose_line_cannot_be_written_is_not_made(
    at: Desk, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = at.client.buckets.main
    record, state = audit.record, list[dict[str, bytes]]()

    def objects() -> dict[str, bytes]:
        kept = (info.key for info in main.list("") if not info.key.startswith(("audit/", "jobs/active/")))
        return {key: main.get(key).data for key in kept if "/manifest" in key or not key.startswith("models/line/2")}

    def refused(store: ObjectStore, **line: Any) -> None:
        if line["action"] == action:
            state.append(objects())
            raise StoreUnavailable("the bucket does not answer")
        record(store, **line)

    monkeypatch.setattr(audit, "record", refused)
    try:
        CHANGES[action](at)
    except StoreUnavailable:
        assert state == [objects()]
    else:
        raise AssertionError(f"{action} was done without a line")


def test_an_alias_says_from_which_version_it_moved(at: Desk) -> None:
    first, second = version(at), version(at)
    at.client.models.alias("line", "champion", first)
    at.client.models.alias("line", "champion", second)
    moved, set_first = lines(at.client.buckets.main, action="alias.set")
    assert dict(set_first.details) == {"from": None, "to": first}
    assert dict(moved.details) == {"from": first, "to": second}


def test_an_alias_that_others_move_meanwhile_has_a_line_for_its_real_change(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = version(at), version(at), version(at)
    at.client.models.alias("line", "champion", first)
    main, others = at.client.buckets.main, [lambda: at.client.models.alias("line", "champion", second)]
    record = audit.record

    def slowly(store: ObjectStore, **line: Any) -> None:
        record(store, **line)
        if others:
            others.pop()()

    monkeypatch.setattr(audit, "record", slowly)
    at.client.models.alias("line", "champion", third)
    assert dict(lines(main, action="alias.set")[0].details) == {"from": second, "to": third}


def test_what_is_refused_has_no_line(at: Desk) -> None:
    main = at.client.buckets.main
    at.client.models.alias("line", "champion", version(at))
    job_id = at.plan()
    with pytest.raises(NothingToResume):
        at.client.resume(job_id)
    with pytest.raises(ModelInUse):
        at.client.delete_model(at.client.registry.resolve("line@champion"))
    with pytest.raises(ScorelineError, match="no version before"):
        at.client.registry.rollback("line", "champion")
    at.client.cancel(job_id)
    at.client.cancel(job_id)  # it has ended
    assert [line.action for line in lines(main, action="job")] == ["job.cancel"]
    assert lines(main, action="model.delete") == lines(main, action="alias.rollback") == []


def test_a_line_is_never_replaced(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "datetime", _Stopped)
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    main = at.client.buckets.main
    audit.record(main, action="job.cancel", target="a", details={"run": 1})
    audit.record(main, action="job.cancel", target="a", details={"run": 1})  # a write whose response was lost
    with pytest.raises(PreconditionFailed):
        audit.record(main, action="job.cancel", target="a", details={"run": 2})
    assert [dict(line.details) for line in lines(main, action="job")] == [{"run": 1}]


class _Stopped:
    @staticmethod
    def now(tz: Any) -> datetime:
        return SLOT


def test_a_cancelled_job_of_a_schedule_names_the_schedule(at: Desk) -> None:
    scheduler = hourly(at, HOURLY + 'overlap = "cancel_running"\n')
    scheduler.tick(SLOT.replace(hour=7, minute=30))
    scheduler.tick(SLOT)
    scheduler.tick(SLOT.replace(hour=9))
    scheduler.tick(SLOT.replace(hour=9))
    (line,) = lines(at.client.buckets.main, action="job.cancel")
    assert line.who == "schedule hourly"


def test_the_submitter_of_a_client_is_named_unless_a_block_names_another(at: Desk) -> None:
    at.client.submitter = "shop"
    first, second = at.plan(job_id="a"), at.plan(job_id="b")
    at.client.cancel(first)
    with acting_as("alice"):
        at.client.cancel(second)
    found = {line.target: line.who for line in lines(at.client.buckets.main, action="job.cancel")}
    assert found == {"a": "shop", "b": "alice"}


@pytest.mark.parametrize(
    ("environ", "who", "where"),
    [
        ({"SUBMITTER": "bob", "DYNO": "run.1", "HEROKU_APP_NAME": "shop"}, "bob", "run.1 of shop, application"),
        ({"DYNO": "web.2", "HEROKU_APP_NAME": "shop"}, "app shop", "web.2 of shop, application"),
        ({"DYNO": "web.2"}, "an app on Heroku", "web.2, application"),
        ({"LOGNAME": "carol"}, "carol", "application"),
    ],
)
def test_the_environment_says_who_acts_and_where(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], who: str, where: str
) -> None:
    for name in ("SUBMITTER", "DYNO", "HEROKU_APP_NAME", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = audit.submitter()
    assert found.who == who
    assert found.where.endswith(where)


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert audit.submitter().who == "user 4711"


def test_a_resume_has_its_line_before_the_run_begins(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, main = cancel(at), at.client.buckets.main
    record, runs = audit.record, list[int]()

    def noted(store: ObjectStore, **line: Any) -> None:
        runs.append(read_run(main, job_id)[0].number)
        record(store, **line)

    monkeypatch.setattr(audit, "record", noted)
    at.client.resume(job_id)
    assert runs == [1]


def test_a_name_that_is_not_utf_8_prevents_no_change(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITTER", UNENCODABLE)
    at.client.submitter = None
    cancel(at)
    with acting_as(UNENCODABLE):
        set_alias(at)
    at.client.submitter = UNENCODABLE
    cancel(at)
    found = [*lines(at.client.buckets.main, action="job"), *lines(at.client.buckets.main, action="alias")]
    assert [line.who for line in found] == ["?"] * 3
