"""A worker that cannot load a model passes its messages to others. The job fails only if no worker can load the
model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Retry

from scoreline.storage.errors import ModelCorrupt, ModelUnloadable, ModelUntrusted, ScoringError
from scoreline.worker.hand_over import HEADER, LONGEST_PAUSE_S, MAX_TIMES, RESTART_TIMES, may_pass_on, pass_on

ERROR = ModelUnloadable("churn@v needs 900 MiB of memory, but a process may use only 512 MiB for models")


class Request(SimpleNamespace):
    def get(self, name: str) -> Any:
        return getattr(self, name, None)


class Task:
    """A fake task that stores its resent messages in a list."""

    def __init__(self, hostname: str, header: Any = None, retries: int = 0) -> None:
        kwargs = {"job_id": "j", "part": 3}
        self.request = Request(hostname=hostname, retries=retries, kwargs=kwargs, **{HEADER: header})
        self.sent: list[dict[str, Any]] = []
        self.name = "scoreline.score_part"

    def retry(self, **options: Any) -> Retry:
        self.sent.append(options)
        return Retry(exc=options["exc"])


class Workers:
    """Workers that answer after a while."""

    def __init__(self, *names: str, after_s: float = 0.0) -> None:
        self.names = list(names)
        self.after_s = after_s

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        return self.names if timeout_s > self.after_s else []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("scoreline.worker.hand_over.time.sleep", found.append)
    return found


def run(task: Task, *workers: str, **changed: Any) -> None:
    pass_on(task, ERROR, Workers(*workers), **changed)  # type: ignore[arg-type]


def test_another_worker_gets_the_message_at_once_and_this_process_pauses(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2_BUCKET", "own")
    task = Task("celery@small", retries=2)
    with pytest.raises(Retry):
        run(task, "celery@small", "celery@large", retried=3)
    ((sent),) = task.sent
    assert (sent["countdown"], sent["kwargs"]) == (0, {"job_id": "j", "part": 3, "retried": 3})
    assert sent["max_retries"] >= 3
    assert sent["queue"] == "scoreline.parts.own"  # the message always goes to this queue, whatever queue it came from
    assert sent["headers"] == {HEADER: {"workers": ["celery@small"], "times": 1}}
    assert pauses == [1.0]


def test_a_busy_worker_that_answers_late_gets_the_message(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2_BUCKET", "own")
    task = Task("celery@small")
    with pytest.raises(Retry):
        pass_on(task, ERROR, Workers("celery@small", "celery@large", after_s=3.0))  # type: ignore[arg-type]
    assert len(task.sent) == 1


def test_a_message_that_every_worker_has_refused_fails_the_job(pauses: list[float]) -> None:
    for header, workers in (
        (None, ["celery@small"]),
        (None, []),
        ({"workers": ["celery@large"], "times": 1}, ["celery@small", "celery@large"]),
    ):
        task = Task("celery@small", header)
        run(task, *workers)  # returns without an error, so that the caller fails the job
        assert task.sent == []
    assert pauses == []


def test_a_part_waits_for_the_workers_that_can_load_its_model_while_they_restart(pauses: list[float]) -> None:
    for header, workers in (
        (None, ["celery@small"]),
        (None, []),
        ({"workers": ["celery@large"], "times": 1}, ["celery@small", "celery@large"]),
    ):
        task = Task("celery@small", header)
        with pytest.raises(Retry):
            run(task, *workers, was_loaded=True)
        assert len(task.sent) == 1
    # But the retries are limited, because their pauses delay other jobs
    run(Task("celery@small", {"workers": [], "times": RESTART_TIMES}), was_loaded=True)
    assert sum(2.0**times for times in range(RESTART_TIMES)) < 60


def test_a_worker_that_takes_a_message_again_waits_longer_each_time_but_not_for_ever(pauses: list[float]) -> None:
    header: Any = None
    for _ in range(MAX_TIMES):
        task = Task("celery@small", header)
        with pytest.raises(Retry):
            run(task, "celery@small", "celery@busy")
        header = task.sent[0]["headers"][HEADER]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    run(Task("celery@small", header), "celery@small", "celery@busy")


@pytest.mark.parametrize("header", ["x", 7, [], {"workers": "x"}, {"workers": [{}], "times": "many"}])
def test_a_forged_header_does_no_harm(header: Any, pauses: list[float]) -> None:
    task = Task("celery@small", header)
    with pytest.raises(Retry):
        run(task, "celery@small", "celery@large")
    assert task.sent[0]["headers"][HEADER]["times"] == 1


def test_only_what_depends_on_the_worker_is_passed_on() -> None:
    assert may_pass_on(ERROR)
    assert may_pass_on(ModelUntrusted("not signed by a key of this worker"))
    assert not may_pass_on(ModelCorrupt("the stored bytes differ"))
    assert not may_pass_on(ScoringError("no row can be scored"))
