"""Long steps of other jobs are done in stints between two batches of a part, and lose nothing when they are paused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import keys
from scoreline.storage.errors import PartInterrupted, StoreUnavailable
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.formats import is_text
from scoreline.tasks.inputs import listing
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import planner, short_steps
from scoreline.tasks.steps import stints as stints_module
from scoreline.tasks.steps.arrange import _Arrangement
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.long_steps import LARGE_MEMORY_BYTES, MIN_MEMORY_BYTES
from scoreline.tasks.steps.short_steps import LONGEST_IN_PART_S, LOOK_EVERY_S, ShortSteps
from scoreline.tasks.steps.step_room import StepRoom
from scoreline.tasks.steps.stints import MOST_AT_ONCE, Gate, LongStep, StepAbandoned, Stints
from tests.support.one_job import OneJob
from tests.support.waiting import HANG_S

PLAN = WaitingStep(task="scoreline.plan", job_id="j")
END = WaitingStep(task="scoreline.finalize", job_id="j")
PINNED = PinnedModel(name="m", version="1", manifest_sha256="")
PAUSED_AT = 3
"""Number of times that a step passes its gate before it is held there."""


class Pausing(Stints):
    """Gives each step a stint that ends when the step reaches its gate for the `PAUSED_AT`-th time, or ends."""

    def __init__(self) -> None:
        super().__init__()
        self.passed, self.reached = 0, threading.Event()

    def hold(self, gate: Gate) -> None:
        self.passed += 1
        if self.passed % PAUSED_AT == 0:
            self.reached.set()
            gate.close()

    def _stint(self, seconds: float) -> None:
        self.reached.clear()
        step = self._begun.pop(0)
        while not self.reached.is_set():
            if step.go_on(0.01):
                return
        self._begun.append(step)


@pytest.fixture
def stints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pausing]:
    """Stints whose length depends on the work, and not on the time."""
    made, wait = Pausing(), Gate.__call__

    def held(gate: Gate) -> None:
        if threading.current_thread() is not threading.main_thread():  # the rest of a step is never paused
            made.hold(gate)
        wait(gate)

    monkeypatch.setattr(Gate, "__call__", held)
    yield made
    made.abandon()


def between(stints: Stints, **options: Any) -> ShortSteps:
    enough: dict[str, Any] = {"has_room": lambda *_: True, "available": lambda: LARGE_MEMORY_BYTES}
    return ShortSteps(**enough | options, stints=stints, clock=Time())


class Time:
    """A clock that each look moves on, so that the next look is due at once."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.1 * LOOK_EVERY_S
        return self.now


def look(one: OneJob, steps: ShortSteps) -> None:
    steps(one.engine, ModelInUse(one.engine.models, PINNED))


def scored(folder: Path, parts: int = 8) -> OneJob:
    """Return a job whose results still have to be gathered."""
    one = OneJob(folder, rows=4 * parts, gather=True, keep="id")
    one.run(1 + parts)
    return one


def rows_of(one: OneJob) -> list[int]:
    found = [key for key in one.listed(one.layout.folder) if key.endswith(".parquet")]
    return [row for key in found for row in pq.read_table(pa.BufferReader(one.store.get(key).data))["id"].to_pylist()]


def test_arranging_goes_on_where_it_was_paused(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, read, begun = scored(tmp_path), [], []
    monkeypatch.setattr(_Arrangement, "_add", _noting(_Arrangement._add, lambda given: read.append(given[1])))
    monkeypatch.setattr(_Arrangement, "run", _noting(_Arrangement.run, lambda given: begun.append(given)))
    steps, looks = between(stints), 0
    one.ledger.waiting.add(END)
    while read_outcome(one.store, "j") is None:
        assert one.ledger.waiting.states([END]) == ["taken" if looks else "waiting"]
        look(one, steps)
        looks += 1
    # Then each part is read once, although the turn was given back several times
    assert looks > 2
    assert read == list(range(8))
    assert len(begun) == 1
    assert sorted(rows_of(one)) == list(range(32))
    # And its message finds that the step is done
    assert one.ledger.waiting.states([END]) == ["done"]
    assert one.outcome.state == "succeeded"


def test_a_part_that_begins_pauses_the_step_and_between_parts_it_works(tmp_path: Path, stints: Pausing) -> None:
    one, steps = scored(tmp_path), between(stints)
    one.ledger.waiting.add(END)
    look(one, steps)
    steps.begin_part()
    assert read_outcome(one.store, "j") is None
    for _ in range(100):  # the fixture closes the gate again and again
        steps.end_part(one.engine)
        stints._begun[0]._thread.join(0.05)
        if not stints._begun[0]._thread.is_alive():
            break
    assert one.outcome.state == "succeeded"
    steps.begin_part()
    look(one, steps)
    assert not stints._begun


def test_a_step_goes_on_in_a_part_that_has_spent_its_time_on_short_steps(tmp_path: Path, stints: Pausing) -> None:
    one, steps = scored(tmp_path), between(stints)
    one.ledger.waiting.add(END)
    look(one, steps)
    steps.spent_s += LONGEST_IN_PART_S
    for _ in range(100):
        look(one, steps)
        if not stints._begun:
            break
    assert one.outcome.state == "succeeded"


def test_after_a_minute_of_stints_a_step_waits_for_the_end_of_the_part_and_short_steps_do_not(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, steps, done = scored(tmp_path), between(stints), list[WaitingStep]()
    one.ledger.waiting.add(END)
    look(one, steps)
    clock = steps.clock
    assert isinstance(clock, Time)

    def stint(seconds: float) -> None:
        clock.now += LONGEST_IN_PART_S
        stints.passed += 1

    monkeypatch.setattr(stints, "_stint", stint)
    monkeypatch.setattr(short_steps, "_run", lambda engine, step, longest_s: done.append(step))
    monkeypatch.setattr(StepRoom, "holds_model", lambda *_: True)
    passed = stints.passed
    for number in range(3):
        one.ledger.waiting.add(WaitingStep(task="scoreline.score_staged", job_id=f"records-{number}"))
        look(one, steps)
    assert stints.passed == passed + 1
    assert [step.job_id for step in done] == ["records-0", "records-1", "records-2"]
    # In the next part, the step goes on
    steps.begin_part()
    look(one, steps)
    assert stints.passed == passed + 2


def test_after_a_minute_of_stints_a_step_that_has_not_begun_is_left_to_other_processes(
    tmp_path: Path, stints: Pausing
) -> None:
    one, steps = scored(tmp_path), between(stints)
    steps._count(LONGEST_IN_PART_S, is_stint=True)
    one.ledger.waiting.add(END)
    look(one, steps)
    assert not stints._begun
    assert one.ledger.waiting.take(60) == END


def test_a_step_of_a_process_that_ends_is_listed_again(tmp_path: Path, stints: Pausing) -> None:
    one, steps = scored(tmp_path), between(stints)
    one.ledger.waiting.add(END)
    look(one, steps)
    steps.abandon()
    assert one.ledger.waiting.states([END]) == ["waiting"]
    assert read_outcome(one.store, "j") is None
    # And the attempt does not count
    assert one.ledger.begin_step("j", "finalize", 60) == 1
    one.ledger.end_step("j", "finalize")
    one.run()
    assert one.outcome.state == "succeeded"
    assert sorted(rows_of(one)) == list(range(32))


def test_a_step_that_was_attempted_before_is_left_to_its_message(tmp_path: Path, stints: Pausing) -> None:
    """The step may have killed the process. Otherwise, it would do so until no attempt is left for its message."""
    one, steps = scored(tmp_path), between(stints)
    assert one.ledger.begin_step("j", "finalize", 60) == 1  # this process dies
    one.ledger.waiting.add(END)
    look(one, steps)
    assert not stints._begun
    assert one.ledger.waiting.states([END]) == [""]
    assert one.ledger.begin_step("j", "finalize", 60) == 2
    one.run()
    assert one.outcome.state == "succeeded"


def test_the_requests_of_the_part_do_not_count_as_those_of_the_step(tmp_path: Path, stints: Pausing) -> None:
    counts = []
    for folder, extra in (("alone", 0), ("beside", 1_000)):
        stints.passed = 0
        one, steps = scored(tmp_path / folder), between(stints)
        one.ledger.waiting.add(END)
        while read_outcome(one.store, "j") is None:
            look(one, steps)
            for _ in range(extra):
                requests.note("b")
        counts.append((one.outcome.class_a, one.outcome.class_b))
    assert counts[0] == counts[1]


def test_planning_goes_on_where_its_survey_was_paused(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, threads = many_objects(tmp_path), list[Any]()
    surveyed: list[Any] = []
    monkeypatch.setattr(planner, "_cut", _noting(planner._cut, lambda _: threads.append(threading.current_thread())))
    monkeypatch.setattr(listing, "is_text", _noting(is_text, surveyed.append))
    steps, looks = between(stints), 0
    one.ledger.waiting.add(PLAN)
    while not exists(one.store, keys.plan("j")):
        assert one.ledger.waiting.states([PLAN]) == ["taken" if looks else "waiting"]
        look(one, steps)
        looks += 1
    assert looks > 2
    assert len(surveyed) == 21
    assert threads == [threading.main_thread()]  # a model is used by one thread at a time
    one.run()
    assert one.outcome.rows == 4 + 20 * 2


def test_planning_that_is_under_way_at_the_end_of_a_part_is_ended_and_short_steps_pass(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, done = many_objects(tmp_path), []
    steps, run = between(stints), short_steps._run
    one.ledger.waiting.add(PLAN)
    look(one, steps)
    assert stints._begun
    records = WaitingStep(task="scoreline.score_staged", job_id="r")
    one.ledger.waiting.add(records)

    def noting(engine: Engine, step: WaitingStep, longest_s: float) -> None:
        done.append((step, exists(one.store, keys.plan("j"))))
        if step != records:
            run(engine, step, longest_s)

    monkeypatch.setattr(short_steps, "_run", noting)
    monkeypatch.setattr(StepRoom, "holds_model", lambda *_: True)
    steps.end_part(one.engine)
    assert done == [(records, False)]
    one.run()
    assert one.outcome.rows == 4 + 20 * 2


def test_planning_that_is_abandoned_between_its_survey_and_the_rest_is_listed_again(tmp_path: Path) -> None:
    one, stints = many_objects(tmp_path), Stints()
    steps = between(stints)
    one.ledger.waiting.add(PLAN)
    assert one.ledger.waiting.take(60) == PLAN
    stints._begun = [steps._long_step(one.engine, PLAN)]
    stints._begun[0].gate.open()
    stints._begun[0]._thread.join(HANG_S)
    assert one.ledger.waiting.states([PLAN]) == ["taken"]
    steps.end_part(one.engine, interrupted=True)
    assert one.ledger.waiting.states([PLAN]) == ["waiting"]
    assert not exists(one.store, keys.plan("j"))


def test_a_long_step_that_begins_between_two_batches_of_records_is_paused_until_they_have_ended(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, records and part would wait for minutes while results are arranged."""
    one, steps, run = scored(tmp_path), between(stints), short_steps._run
    records = WaitingStep(task="scoreline.score_staged", job_id="r")
    seen: list[tuple[bool, bool]] = []

    def run_records(engine: Engine, step: WaitingStep, longest_s: float) -> None:
        if step != records:
            run(engine, step, longest_s)
            return
        one.ledger.waiting.add(END)
        with engine.step_under_way():
            for _ in range(2):
                engine.let_others_work(PINNED)
                seen.append((bool(stints._begun), read_outcome(one.store, "j") is None))

    monkeypatch.setattr(short_steps, "_run", run_records)
    monkeypatch.setattr(StepRoom, "_model_of", lambda *_: None)
    assert one.ledger.waiting.take(60) == END
    one.ledger.waiting.end(END)
    one.ledger.waiting.add(records)
    look(one, steps)
    assert seen == [(True, True)] * 2
    # And the end of the records does not let it work beside the part
    assert not stints._begun[0].gate._open.is_set()
    while read_outcome(one.store, "j") is None:
        look(one, steps)
    assert one.outcome.state == "succeeded"


def test_a_long_step_shares_nothing_with_the_steps_that_are_done_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, engines = scored(tmp_path), list[Engine]()
    monkeypatch.setattr(short_steps, "_run", lambda engine, *_: engines.append(engine))
    one.ledger.waiting.add(END)
    records = WaitingStep(task="scoreline.score_staged", job_id="r")
    one.ledger.waiting.add(records)
    monkeypatch.setattr(StepRoom, "holds_model", lambda *_: True)
    look(one, between(Stints()))
    long, short = engines
    assert long.kept is not short.kept
    assert long._documents is not short._documents


def test_an_interrupted_part_does_not_wait_for_planning(tmp_path: Path, stints: Pausing) -> None:
    one, steps = many_objects(tmp_path), between(stints)
    one.ledger.waiting.add(PLAN)
    look(one, steps)
    steps.end_part(one.engine, interrupted=True)
    assert not exists(one.store, keys.plan("j"))
    assert one.ledger.waiting.states([PLAN]) == ["waiting"]


def test_an_input_that_is_refused_in_a_stint_fails_its_job_with_the_reason(tmp_path: Path, stints: Pausing) -> None:
    one, steps = many_objects(tmp_path), between(stints)
    one.store.put("in/z.parquet", b"no Parquet")
    one.ledger.waiting.add(PLAN)
    while read_outcome(one.store, "j") is None:
        look(one, steps)
    assert "in/z.parquet" in one.outcome.error


def test_a_transient_error_in_a_stint_leaves_the_step_to_its_message(
    tmp_path: Path, stints: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, steps = many_objects(tmp_path), between(stints)

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("503")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "list", fail)
        one.ledger.waiting.add(PLAN)
        look(one, steps)
    assert one.ledger.waiting.states([PLAN]) == [""]
    one.run()
    assert one.outcome.rows == 4 + 20 * 2


def test_while_a_free_process_arranges_steps_of_other_jobs_pass(tmp_path: Path) -> None:
    one, passed = scored(tmp_path), []
    steps = between(Stints())
    steps.do_request = lambda engine, step, longest_s: not passed.append((step, read_outcome(one.store, "j")))  # type: ignore[func-returns-value]
    asked = WaitingStep(task="scoreline.status", job_id="asked")
    one.ledger.waiting.add(asked)
    engine = one.engine
    engine.between_batches = steps
    with engine.step_under_way():
        finalize(engine, "j")
    assert passed == [(asked, None)]
    assert one.outcome.state == "succeeded"


@pytest.mark.parametrize("has_died", [False, True])
@pytest.mark.parametrize("step", ["plan", "finalize"])
def test_after_the_first_attempt_no_steps_of_other_jobs_pass(tmp_path: Path, step: str, *, has_died: bool) -> None:
    """A step of another job may kill the process. If it could do so in each attempt, the job would fail, too."""
    one, passed = many_objects(tmp_path) if step == "plan" else scored(tmp_path), list[ModelInUse]()

    class Noting(ShortSteps):
        def __call__(self, engine: Engine, model: ModelInUse) -> float:
            passed.append(model)
            return 0.0

    if has_died:
        one.ledger.begin_step("j", step, 60)
    engine = replace(one.engine, between_batches=Noting(has_room=lambda *_: True))
    (planner.plan_job if step == "plan" else finalize)(engine, "j")
    assert bool(passed) != has_died
    one.run()
    assert one.outcome.state == "succeeded"


def test_a_process_begins_only_so_many_long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stints_module, "STINT_S", 0.001)
    stints, release = Stints(), threading.Event()
    for _ in range(MOST_AT_ONCE):
        assert not stints.are_full
        stints.begin(LongStep(_waiting(release)))
    assert stints.are_full
    release.set()
    stints.abandon()


@pytest.mark.parametrize("begun", ["scoreline.plan", "scoreline.finalize"])
@pytest.mark.parametrize("waits", ["scoreline.plan", "scoreline.finalize"])
def test_a_long_step_begins_only_if_its_memory_is_available_beside_that_of_those_begun(
    tmp_path: Path, stints: Pausing, begun: str, waits: str
) -> None:
    """A step that has just begun has not taken its memory yet."""
    needed = {"scoreline.plan": MIN_MEMORY_BYTES, "scoreline.finalize": LARGE_MEMORY_BYTES}
    for missing in (1, 0):
        folder = tmp_path / str(missing)
        one = many_objects(folder) if waits == "scoreline.plan" else scored(folder)
        while one.ledger.waiting.take(60) is not None:
            pass
        memory = needed[begun] + needed[waits] - missing
        steps = between(stints, available=lambda memory=memory: memory)
        first = steps._long_step(one.engine, WaitingStep(task=begun, job_id="begun"))
        stints._begun = [first]
        step = WaitingStep(task=waits, job_id="j")
        one.ledger.waiting.end(step)
        one.ledger.waiting.add(step)
        steps._do_all(one.engine, ModelInUse(one.engine.models, PINNED), [], frozenset())
        assert len(stints._begun) == 2 - missing
        stints.abandon()


def _waiting(release: threading.Event) -> Callable[[Gate], None]:
    def work(gate: Gate) -> None:
        release.wait(HANG_S)
        gate()

    return work


def test_a_stint_takes_no_longer_than_the_part_had_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    time, asked = [0.0], []

    def stint(step: LongStep, seconds: float) -> bool:
        asked.append(seconds)
        return False

    monkeypatch.setattr(LongStep, "go_on", stint)
    stints = Stints(clock=lambda: time[0])
    stints.begin(LongStep(lambda gate: gate()))
    for time[0] in (0.2, 0.5, 5.0):
        stints.go_on()
    assert asked == pytest.approx([0.5, 0.2, 0.3, 0.5])
    monkeypatch.undo()
    stints.abandon()


def test_the_time_limit_of_a_part_leaves_the_step_for_its_next_stint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stints: Pausing
) -> None:
    one, steps = scored(tmp_path), between(stints)
    one.ledger.waiting.add(END)
    look(one, steps)

    def interrupted(seconds: float | None) -> None:
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patched:
        patched.setattr(stints._begun[0]._thread, "join", interrupted)
        patched.setattr(Stints, "go_on", lambda self: Stints._stint(self, 0.5))
        patched.setattr(Pausing, "_stint", Stints._stint)
        with pytest.raises(PartInterrupted, match="until the time limit"):
            look(one, steps)
    while read_outcome(one.store, "j") is None:
        look(one, steps)
    assert one.outcome.state == "succeeded"


def test_the_time_limit_at_the_end_of_a_part_ends_all_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit interrupts a process only once, and kills it a minute later."""
    one, stints, asked = many_objects(tmp_path), Stints(), list[LongStep]()
    steps = between(stints, has_room=lambda *_: False)
    one.ledger.waiting.add(PLAN)
    one.ledger.waiting.add(WaitingStep(task="scoreline.score_staged", job_id="r"))
    stints._begun = [LongStep(lambda gate: gate(), lambda gate: gate()) for _ in range(2)]

    def go_on(step: LongStep, seconds: float | None = None) -> bool:
        asked.append(step)
        return len(asked) > 1

    def run_out(engine: Engine, step: WaitingStep, longest_s: float) -> None:
        raise PartInterrupted("the time limit")

    monkeypatch.setattr(LongStep, "go_on", go_on)
    monkeypatch.setattr(short_steps, "_run", run_out)
    monkeypatch.setattr(StepRoom, "holds_model", lambda self, engine, step, *_: step != PLAN)
    steps.end_part(one.engine)
    assert len(asked) == 1
    assert not stints._begun
    # And a step without room, which was looked at before, is listed again
    assert one.ledger.waiting.states([PLAN]) == ["waiting"]


def test_an_abandoned_step_does_not_wait_at_its_gate() -> None:
    gate = Gate()
    gate.abandon()
    gate.close()
    with pytest.raises(StepAbandoned):
        gate()


def many_objects(folder: Path) -> OneJob:
    """Return a job that is not planned yet, with 21 objects."""
    one = OneJob(folder)
    for number in range(20):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": np.arange(2), "x": np.arange(2.0)}), sink)
        one.store.put(f"in/b{number:02}.parquet", sink.getvalue().to_pybytes())
    return one


def _noting(behind: Callable[..., Any], note: Callable[[Any], Any]) -> Callable[..., Any]:
    def noted(*given: Any, **options: Any) -> Any:
        note(given if len(given) > 1 else given[0])
        return behind(*given, **options)

    return noted
