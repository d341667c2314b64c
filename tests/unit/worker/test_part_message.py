"""A process uses one message for several small parts, and a part is scored once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import StoreUnavailable
from scoreline.tasks.steps import score_part as parts
from scoreline.worker import lifecycle, part_message, tasks, telemetry
from tests.support.line_jobs import Desk, desk

PARTS, WINDOW = 20, 8
LONG_S = 3_600.0


class ProcessKilled(BaseException):
    """Ends a task as the death of its process does: nothing is released, and nothing is sent."""


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(part_message, "KEPT_S", LONG_S)
    with desk(tmp_path) as made:
        monkeypatch.setattr(lifecycle, "process", lifecycle.Process(engine=made.engine, client=made.client))
        yield made


def planned(at: Desk, **options: Any) -> str:
    job_id = at.plan(rows=10 * PARTS, **options)
    at.names_sent()
    return job_id


def deliver(job_id: str, part: int, **options: Any) -> Any:
    return tasks.score_part.apply(kwargs={"job_id": job_id, "part": part}, **options).result


def test_a_message_is_used_for_each_part_that_follows(at: Desk) -> None:
    job_id = planned(at)
    done = deliver(job_id, 0)
    # The messages of the other parts of the window are still in the queue
    assert at.progress(job_id).parts_done == PARTS - WINDOW + 1
    assert at.progress(job_id).in_flight == WINDOW - 1
    assert at.names_sent() == []
    assert done == {"rows": 10 * (PARTS - WINDOW + 1), "rejected": 0}
    for part in range(1, WINDOW):
        deliver(job_id, part)
    assert at.progress(job_id).rows == 10 * PARTS
    assert at.names_sent() == ["finalize"]


def test_a_message_is_sent_for_the_next_part_after_a_while(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_message, "KEPT_S", 0.0)
    job_id = planned(at)
    deliver(job_id, 0)
    assert at.progress(job_id).parts_done == 1
    assert at.sent == [("scoreline.score_part", {"job_id": job_id, "part": WINDOW})]


def test_a_message_goes_on_with_its_last_part_if_the_process_dies(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = planned(at)
    score, leased = parts.score_leased, list[parts.LeasedPart]()

    def score_two(engine: Any, found: parts.LeasedPart, *arguments: Any) -> Any:
        leased.append(found)
        if len(leased) == 3:
            raise ProcessKilled
        return score(engine, found, *arguments)

    monkeypatch.setattr(parts, "score_leased", score_two)
    with pytest.raises(ProcessKilled):
        deliver(job_id, 0, task_id="the same message")
    deliver(job_id, 0, task_id="the same message")
    again = leased[3]
    assert (again.lease.part, again.started.attempt) == (leased[2].lease.part, 2)
    for part in range(1, WINDOW):
        deliver(job_id, part)
    assert at.progress(job_id).rows == 10 * PARTS
    assert at.names_sent() == ["finalize"]


def test_a_retry_is_for_the_part_for_which_the_message_was_last_used(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = planned(at)
    put, keys = at.client.buckets.main.put, list[str]()

    def fail_once(key: str, *arguments: Any, **options: Any) -> Any:
        keys.append(key)
        if len(keys) == 2:
            raise StoreUnavailable("503")
        return put(key, *arguments, **options)

    monkeypatch.setattr(at.client.buckets.main, "put", fail_once)
    deliver(job_id, 0)
    # The retry is for that part alone, and a message is sent for the next one
    assert keys[1] == keys[2] != keys[0]
    assert at.progress(job_id).parts_done == len(keys) - 1 == 2
    assert at.names_sent() == ["score_part"]


def test_a_message_is_not_kept_if_another_job_was_due(at: Desk) -> None:
    named, due = planned(at, priority="low"), planned(at, priority="high")
    deliver(named, 0)
    assert (at.progress(named).parts_done, at.progress(due).parts_done) == (0, 1)
    assert at.names_sent() == ["score_part"]


def test_a_message_is_not_kept_if_steps_of_other_jobs_were_done(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = planned(at)
    monkeypatch.setattr(parts, "_spent_elsewhere_s", lambda engine: 0.1)
    deliver(job_id, 0)
    assert at.progress(job_id).parts_done == 1
    assert at.names_sent() == ["score_part"]


def test_each_part_has_a_message_if_spans_are_reported(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = planned(at)
    monkeypatch.setattr(telemetry, "is_tracing", lambda: True)
    deliver(job_id, 0)
    assert at.progress(job_id).parts_done == 1
    assert at.names_sent() == ["score_part"]
