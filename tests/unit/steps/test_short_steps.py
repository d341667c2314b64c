"""Between two batches of a part, a process does short steps of other jobs. The part itself is scored as if alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, PartInterrupted
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.job.documents import read_job, read_outcome
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import inline, short_steps, step_room
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.inline import score_small
from scoreline.tasks.steps.long_steps import LARGE_MEMORY_BYTES, MIN_MEMORY_BYTES
from scoreline.tasks.steps.part_challenger import PartChallenger
from scoreline.tasks.steps.score_part import score_part
from scoreline.tasks.steps.short_steps import (
    LONGEST_IN_PART_S,
    LONGEST_RECORDS_S,
    LONGEST_S,
    LONGEST_WITHIN_S,
    LOOK_EVERY_S,
    ShortSteps,
)
from scoreline.tasks.steps.step_room import StepRoom
from tests.support.one_job import OneJob

Install = Callable[[Callable[[Engine, WaitingStep], bool]], list[WaitingStep]]


class Time:
    """A clock that each look moves on, so that the next look is due at once."""

    def __init__(self, step_s: float = LOOK_EVERY_S) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@pytest.fixture
def at(tmp_path: Path) -> OneJob:
    """A planned job with one part."""
    job = OneJob(tmp_path)
    job.run(1)
    return job


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that replaces what a step does. The steps that are done are in the list that it returns."""

    def put(run: Callable[[Engine, WaitingStep], bool]) -> list[WaitingStep]:
        done: list[WaitingStep] = []

        def hooked(engine: Engine, step: WaitingStep, longest_s: float) -> bool:
            done.append(step)
            return run(engine, step)

        monkeypatch.setattr(short_steps, "_run", hooked)
        monkeypatch.setattr(StepRoom, "holds_model", lambda *_: True)
        monkeypatch.setattr(StepRoom, "holds_memory", lambda *_: True)
        return done

    return put


def ready(engine: Engine, step: WaitingStep) -> bool:
    return True


def end_of(job_id: str) -> WaitingStep:
    return WaitingStep(task="scoreline.finalize", job_id=job_id)


def records_of(job_id: str) -> WaitingStep:
    return WaitingStep(task="scoreline.score_staged", job_id=job_id)


def score(at: OneJob, between: ShortSteps) -> tuple[int, int] | None:
    return score_part(replace(at.engine, between_batches=between), "j", 0, "holder")


def steps(**options: Any) -> ShortSteps:
    return ShortSteps(**{"has_room": lambda *_: True, "available": lambda: MIN_MEMORY_BYTES} | options)


def test_all_steps_that_wait_are_done_in_their_order(at: OneJob, install: Install) -> None:
    done = install(ready)
    waiting = [end_of(str(number)) for number in range(3)]
    for step in waiting:
        at.ledger.waiting.add(step)
    assert score(at, steps()) == (4, 0)
    assert done == waiting
    assert at.ledger.waiting.begin(waiting[0])  # it counts as taken only while it is done


def test_the_list_is_looked_at_only_so_often(at: OneJob, install: Install) -> None:
    install(ready)
    between, looks = steps(clock=Time(LOOK_EVERY_S / 10)), []
    take = at.ledger.waiting.take
    at.ledger.waiting.take = lambda seconds: looks.append(seconds) or take(seconds)  # type: ignore[method-assign,func-returns-value]
    for _ in range(5):
        between(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert len(looks) == 1


def test_after_a_second_the_part_goes_on(at: OneJob, install: Install) -> None:
    time = Time(0.0)

    def slowly(engine: Engine, step: WaitingStep) -> bool:
        time.now += 0.6 * LONGEST_S
        return True

    done = install(slowly)
    for number in range(5):
        at.ledger.waiting.add(end_of(str(number)))
    seconds = steps(clock=time)(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert len(done) == 2
    assert seconds == pytest.approx(1.2 * LONGEST_S)


def test_the_time_of_other_jobs_does_not_count_as_work_on_the_part(at: OneJob) -> None:
    class Elsewhere:
        spent_s, requests = 0.0, Requests()

        def begin_part(self) -> None:
            self.spent_s = 0.0

        def end_part(self, engine: Engine, *, interrupted: bool = False) -> None:
            pass

        def __call__(self, engine: Engine, model: ModelInUse) -> float:
            self.spent_s += 1000.0
            return 1000.0

    score_part(replace(at.engine, between_batches=Elsewhere()), "j", 0, "holder")
    seconds = json.loads(at.store.head(at.layout.part(0)).metadata["seconds"])
    assert seconds["queue"] > 999
    assert seconds["wall"] < 0
    assert at.ledger.counters.read().part_seconds < 0


def test_the_requests_of_other_jobs_do_not_count_as_those_of_the_part(at: OneJob, install: Install) -> None:
    def costly(engine: Engine, step: WaitingStep) -> bool:
        for _ in range(1_000):
            requests.note("b")
        return True

    install(costly)
    at.ledger.waiting.add(end_of("a"))
    assert score(at, steps()) == (4, 0)
    timings = json.loads(at.store.head(at.layout.part(0)).metadata["seconds"])
    assert timings["class_a"] > 0
    assert timings["class_b"] < 100


def test_another_challenger_does_not_set_back_the_time_of_the_challenger_of_the_part(
    at: OneJob, install: Install
) -> None:
    def challenge(engine: Engine, step: WaitingStep) -> bool:
        engine.challengers.spent_s = 0.0
        engine.challengers.add("other", "it is too slow")
        return True

    done = install(challenge)
    at.ledger.waiting.add(end_of("a"))
    at.engine.challengers.spent_s = 7.0
    steps()(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert done
    assert at.engine.challengers.spent_s == 7.0
    assert at.engine.challengers.reason("other") == "it is too slow"


@pytest.mark.parametrize("error", [ValueError("a fault"), LedgerUnavailable("no Redis"), KeyError("x")])
def test_a_step_that_fails_is_left_to_its_message(at: OneJob, install: Install, error: Exception) -> None:
    def fail(engine: Engine, step: WaitingStep) -> bool:
        raise error

    done = install(fail)
    at.ledger.waiting.add(end_of("a"))
    assert score(at, steps()) == (4, 0)
    assert done == [end_of("a")]
    assert at.ledger.waiting.begin(end_of("a"))


def test_the_part_goes_on_without_the_list(at: OneJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seconds: float) -> WaitingStep | None:
        raise LedgerUnavailable("no Redis")

    monkeypatch.setattr(at.ledger.waiting, "take", fail)
    assert score(at, steps()) == (4, 0)


def test_the_time_limit_of_the_task_interrupts_the_part_without_failing_it(at: OneJob, install: Install) -> None:
    def run_out(engine: Engine, step: WaitingStep) -> bool:
        raise SoftTimeLimitExceeded

    install(run_out)
    at.ledger.waiting.add(end_of("a"))
    with pytest.raises(PartInterrupted, match=r"'scoreline.finalize' of job a"):
        score(at, steps())
    # The part is scored again, and the attempt does not count
    assert PartInterrupted.transient
    at.run()
    at.verify([])


def test_the_time_limit_that_interrupts_records_during_another_step_interrupts_the_part(
    at: OneJob, install: Install
) -> None:
    """The limit interrupts a process only once. Otherwise, the part would go on until the process is killed."""

    def interrupted(engine: Engine, step: WaitingStep) -> bool:
        raise PartInterrupted("a step was done between two batches of these records until the time limit")

    install(interrupted)
    at.ledger.waiting.add(records_of("a"))
    with pytest.raises(PartInterrupted):
        score(at, steps())
    assert at.ledger.waiting.states([records_of("a")]) == [""]
    at.run()
    at.verify([])


PLAN = WaitingStep(task="scoreline.plan", job_id="j")


def planned(one: OneJob, between: ShortSteps) -> bool:
    """Look at the waiting steps once, and return whether the job is planned."""
    between(one.engine, ModelInUse(one.engine.models, PinnedModel(name="m", version="1", manifest_sha256="")))
    return exists(one.store, keys.plan("j"))


def test_a_model_that_has_no_room_beside_the_one_in_use_is_left_to_another_process(tmp_path: Path) -> None:
    one = OneJob(tmp_path)
    time, asked = Time(0.0), []

    def room(pinned: PinnedModel, *in_use: Bundle) -> bool:
        asked.append(pinned)
        return False

    full = steps(has_room=room, clock=time)
    behind = end_of("gone")
    one.ledger.waiting.add(PLAN)
    one.ledger.waiting.add(behind)
    for time.now in (0.0, 1.0):  # the second look does not read the job again
        assert not planned(one, full)
    assert len(asked) == 1
    assert one.ledger.waiting.begin(PLAN)  # it is listed, and no longer taken
    one.ledger.waiting.add(PLAN)
    assert planned(one, steps())
    assert one.ledger.waiting.take(1) is None  # the step behind was tried in the first look


def test_no_step_is_begun_if_memory_is_short(tmp_path: Path) -> None:
    one = OneJob(tmp_path)
    one.ledger.waiting.add(PLAN)
    assert not planned(one, steps(available=lambda: MIN_MEMORY_BYTES - 1))
    assert planned(one, steps())


@pytest.mark.parametrize("enough", [True, False])
@pytest.mark.parametrize("why", ["arranged", "many parts", ""])
def test_finalizing_that_needs_more_memory_than_there_is_is_left_to_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, *, enough: bool
) -> None:
    options: dict[str, Any] = {"gather": True} if why == "arranged" else {}
    one = OneJob(tmp_path, **options)
    one.run(2)
    if why == "many parts":
        monkeypatch.setattr(step_room, "MAX_PARTS", 0)
    memory = LARGE_MEMORY_BYTES if enough else LARGE_MEMORY_BYTES - 1
    steps(available=lambda: memory)(one.engine, ModelInUse(one.engine.models, one.documents.job.model))
    assert (read_outcome(one.store, "j") is not None) == (enough or why == "")
    assert one.ledger.waiting.take(1) is None
    one.run()
    assert one.outcome.state == "succeeded"


@pytest.mark.parametrize("is_retry", [False, True])
def test_after_the_first_attempt_a_part_does_no_steps(at: OneJob, install: Install, *, is_retry: bool) -> None:
    """A step may kill the process or use up its time, and the part would fail after some attempts."""
    done = install(ready)
    documents = at.documents
    lease = PartLease(job_id="j", plan_sha256=documents.plan.sha256, part=0, holder="holder", lease_s=60)
    at.ledger.start(lease)  # this process dies
    at.ledger.waiting.add(end_of("a"))
    engine = replace(at.engine, between_batches=steps())
    assert score_part(engine, "j", 0, "holder", is_retry=is_retry) == (4, 0)
    assert done == []


def test_after_a_minute_of_steps_a_part_does_no_more(at: OneJob, install: Install) -> None:
    done, time = install(ready), Time(1.1 * LOOK_EVERY_S)
    between = steps(clock=time)
    between.spent_s = LONGEST_IN_PART_S
    at.ledger.waiting.add(end_of("a"))
    between(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert done == []
    between.begin_part()
    between(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert done == [end_of("a")]


@pytest.mark.parametrize("steps_s", [60.0, 1.0, None])
def test_a_part_fails_at_the_time_limit_unless_it_spent_much_time_on_steps(
    at: OneJob, install: Install, monkeypatch: pytest.MonkeyPatch, steps_s: float | None
) -> None:
    clock, with_steps = Time(LOOK_EVERY_S), steps_s == 60.0

    def slowly(engine: Engine, step: WaitingStep) -> bool:
        clock.now += steps_s or 0.0
        return True

    install(slowly)
    if steps_s is not None:
        at.ledger.waiting.add(end_of("a"))

    def run_out(*_: Any, **__: Any) -> None:
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patched:
        patched.setattr("scoreline.tasks.steps.score_rows.score_batch", run_out)
        with pytest.raises(PartInterrupted if with_steps else SoftTimeLimitExceeded):
            score(at, steps(clock=clock))
    if with_steps:  # the attempt is not counted, and another message can begin the part at once
        at.run()
        at.verify([])


@pytest.mark.parametrize(("pace", "scored"), [(0.1, False), (1.0, True), (1e9, True), (None, True)])
def test_records_that_take_long_are_only_planned(tmp_path: Path, *, pace: float | None, scored: bool) -> None:
    one = OneJob(tmp_path)
    job = read_job(one.store, "j")
    if pace is not None:
        one.ledger.counters.note_pace(job.work, pace)
    one.ledger.waiting.add(WaitingStep(task="scoreline.score_staged", job_id="j"))
    assert planned(one, steps())
    assert (read_outcome(one.store, "j") is not None) == scored
    one.run()
    one.verify([])


def test_a_step_of_a_later_release_and_one_of_an_unknown_job_are_left(at: OneJob) -> None:
    for step in (WaitingStep(task="scoreline.plan", job_id="gone"), WaitingStep(task="scoreline.later", job_id="j")):
        at.ledger.waiting.add(step)
    assert score(at, steps()) == (4, 0)
    assert [at.ledger.waiting.take(1), at.ledger.waiting.take(1)] == [end_of("j"), None]


def test_a_step_is_not_interrupted_by_other_steps_and_shares_nothing_with_the_part(
    at: OneJob, install: Install
) -> None:
    engines: list[Engine] = []

    def keep(engine: Engine, step: WaitingStep) -> bool:
        engines.append(engine)
        return True

    install(keep)
    at.ledger.waiting.add(records_of("a"))
    score(at, steps())
    (within,) = engines
    assert within.between_batches is not at.engine.between_batches
    assert within.kept is not at.engine.kept
    assert within.send == at.engine.send
    at.engine.challengers.add("k", "it is too slow")
    assert within.challengers.reason("k")


def test_records_scored_meanwhile_do_not_reset_the_time_of_the_challenger_of_the_part(
    at: OneJob, install: Install
) -> None:
    """Otherwise, the part would fail at its time limit because of its challenger."""

    def score_records(engine: Engine, step: WaitingStep) -> bool:
        PartChallenger(engine, at.documents, 0, {}, enabled=True)
        return True

    done = install(score_records)
    at.ledger.waiting.add(end_of("a"))
    at.engine.challengers.spent_s = 10.0
    steps()(at.engine, ModelInUse(at.engine.models, at.documents.job.model))
    assert done
    assert at.engine.challengers.spent_s == 10.0


def test_a_job_with_a_challenger_is_planned_by_its_message(tmp_path: Path) -> None:
    """Planning loads both of its models, and there may be room for only one beside that of the part."""
    one = OneJob(tmp_path)
    job = read_job(one.store, "j")
    pinned = PinnedModel(name="n", version="20260101T000000Z-11111", manifest_sha256="1" * 64)
    challenged = replace(job, spec=replace(job.spec, challenger="n"), challenger=pinned)
    one.store.put(keys.job("j"), challenged.to_json())
    one.ledger.waiting.add(PLAN)
    assert not planned(one, steps())
    assert one.ledger.waiting.take(1) is None  # no process does it between batches
    one.run()
    one.verify([])


def test_records_that_are_scored_at_once_list_no_step(tmp_path: Path) -> None:
    one = OneJob(tmp_path)
    score_small(replace(one.engine, between_batches=steps()), "j", "holder")
    one.verify([])
    assert one.ledger.waiting.take(1) is None


def test_shorter_steps_pass_between_the_batches_of_records_but_no_further(
    at: OneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = steps(clock=Time()).within
    assert within is not None
    assert within.within is None
    depths: list[int] = []

    def look(engine: Engine, step: WaitingStep, longest_s: float) -> None:
        depths.append(len(depths))
        between = engine.between_batches
        assert (longest_s, between is None) == ((LONGEST_WITHIN_S, True) if depths[-1] else (LONGEST_RECORDS_S, False))
        if between is not None:
            at.ledger.waiting.add(end_of("within"))
            between(engine, ModelInUse(engine.models, at.documents.job.model))

    monkeypatch.setattr(short_steps, "_run", look)
    monkeypatch.setattr(StepRoom, "holds_model", lambda *_: True)
    monkeypatch.setattr(StepRoom, "holds_memory", lambda *_: True)
    at.ledger.waiting.add(records_of("a"))
    score(at, steps(clock=Time()))
    assert depths == [0, 1]


def test_records_let_steps_of_other_jobs_pass_and_their_messages_are_sent(at: OneJob, install: Install) -> None:
    sent: list[str] = []

    def send(engine: Engine, step: WaitingStep) -> bool:
        engine.send("scoreline.finalize", job_id="another")
        return True

    done = install(send)
    at.ledger.waiting.add(end_of("a"))
    engine = replace(at.engine, send=lambda name, **_: sent.append(name))
    between, model = inline._Between(engine, steps()), ModelInUse(at.engine.models, at.documents.job.model)
    assert between(at.engine, model) == 0.0  # the records themselves do not wait for other steps
    assert done == []
    between(at.engine, model)
    assert done == [end_of("a")]
    assert sent == ["scoreline.finalize"]
