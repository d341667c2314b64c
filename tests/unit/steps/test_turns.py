"""If no process has room for a model beside the one in use, a process lets both take turns between two batches."""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import ModelNotFound, StoreUnavailable
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import exists
from scoreline.tasks.job.documents import Job, mark_active
from scoreline.tasks.steps import short_steps
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.long_steps import MIN_MEMORY_BYTES
from scoreline.tasks.steps.score_part import score_part
from scoreline.tasks.steps.short_steps import LOOK_EVERY_S, ShortSteps
from scoreline.tasks.steps.step_room import PATIENCE_S
from scoreline.tasks.steps.stints import LongStep, Stints
from scoreline.tasks.steps.turns import TURNS_EVERY
from tests.support.one_job import OneJob
from tests.support.one_model import Models

BATCHES, BATCH_ROWS = 12, 10
OTHER = PinnedModel(name="n", version="20260101T000000Z-11111", manifest_sha256="1" * 64)
PLAN = WaitingStep(task="scoreline.plan", job_id="k")


class Cramped(Models):
    """A source of models with room for only one of them: a model is loaded only if no other one is in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.errors: list[Exception] = []
        """The errors of the next loads after the first."""
        self._alive: dict[str, weakref.ref[Bundle]] = {}

    def get(self, pinned: PinnedModel) -> Bundle:
        known = self._alive.get(pinned.name)
        if known is not None and (bundle := known()) is not None:
            return bundle
        assert [name for name, other in self._alive.items() if other() is not None] == []
        if self.loads and self.errors:
            raise self.errors.pop(0)
        self.loads.append(pinned.name)
        bundle = super().get(pinned)
        self._alive[pinned.name] = weakref.ref(bundle)
        return bundle


class Clock:
    """A clock that moves on by a fixed time at each call."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


class Two:
    """The planned job "j" with one part, and the job "k", which waits to be planned with another model."""

    def __init__(self, folder: Path) -> None:
        self.one = OneJob(folder, rows=BATCHES * BATCH_ROWS, part_rows=BATCHES * BATCH_ROWS)
        self.one.run(1)
        self.store = self.one.store
        job = Job.from_json(self.store.get(keys.job("j")).data)
        other = replace(job, spec=replace(job.spec, job_id="k"), model=OTHER)
        mark_active(self.store, "k")
        self.store.put(keys.job("k"), other.to_json())
        self.one.ledger.waiting.add(PLAN)
        self.models = Cramped()
        self.engine = replace(self.one.engine, models=self.models)

    def is_planned(self) -> bool:
        return exists(self.store, keys.plan("k"))

    def score(self, between: ShortSteps) -> Any:
        return score_part(replace(self.engine, between_batches=between), "j", 0, "holder")


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setattr(f"{Engine.__module__}.BATCH_ROWS", BATCH_ROWS)
    return Two(tmp_path)


def steps(clock: Callable[[], float], **options: Any) -> ShortSteps:
    defaults = {
        "has_room": lambda pinned, *in_use: all(pinned.name == "m" for _ in in_use),
        "can_take_turns": lambda pinned, in_use: True,
        "available": lambda: MIN_MEMORY_BYTES,
    }
    return ShortSteps(**defaults | {"clock": clock} | options)


def test_a_step_without_room_is_done_within_the_part_and_the_part_is_scored_as_if_alone(two: Two) -> None:
    between = steps(Clock(LOOK_EVERY_S))
    assert two.score(between) == (BATCHES * BATCH_ROWS, 0)
    assert two.is_planned()
    assert two.models.loads == ["m", "n", "m"]
    # The time of both loads is not that of the part
    seconds = json.loads(two.store.head(two.one.layout.part(0)).metadata["seconds"])
    assert seconds["queue"] == pytest.approx(between.spent_s)
    assert between.spent_s > 0
    two.one.run()
    assert two.one.outcome.state == "succeeded"


def test_a_process_waits_for_others_that_may_have_room(two: Two) -> None:
    clock = Clock(0.0)
    between, model = steps(clock), ModelInUse(two.models, two.one.documents.job.model)
    looks = [0.0, 0.8 * PATIENCE_S, 2 * PATIENCE_S]
    planned = []
    for clock.now in looks:
        model.bundle  # noqa: B018
        between(two.engine, model)
        planned.append(two.is_planned())
    assert planned == [False, False, True]
    assert model.loaded is not None


@pytest.mark.parametrize("why", ["it takes long", "its own steps"])
def test_models_do_not_take_turns(two: Two, why: str) -> None:
    clock = Clock(LOOK_EVERY_S)
    between: ShortSteps | None = steps(clock)
    if why == "it takes long":
        between = steps(clock, can_take_turns=lambda pinned, in_use: False)
    else:  # between two batches of records, the model of the part is in use, too
        assert between is not None
        between = between.within
    assert between is not None
    two.score(between)
    assert not two.is_planned()
    assert two.models.loads == ["m"]
    assert two.one.ledger.waiting.take(60) == PLAN  # it is left to other processes


def test_planning_that_is_not_ended_in_its_turn_takes_another_turn(two: Two) -> None:
    """Otherwise, it would load its model beside the one in use."""

    class Later(Stints):
        def begin(self, step: LongStep) -> None:
            self._begun.append(step)

        def go_on(self) -> None:
            if self._begun and model.loaded is not None:
                assert self._begun.pop().go_on()

    clock = Clock(0.0)
    between, model = steps(clock, stints=Later()), ModelInUse(two.models, two.one.documents.job.model)
    planned = []
    for clock.now in (0.0, 2 * PATIENCE_S):
        model.bundle  # noqa: B018
        between(two.engine, model)
        planned.append(two.is_planned())
    assert planned == [False, True]
    assert model.loaded is not None
    assert two.models.loads == ["m", "m", "n", "m"]


def test_after_a_turn_the_part_goes_on_for_a_while(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_steps, "_run", lambda engine, step, longest_s: engine.models.get(OTHER))
    clock = Clock(0.0)
    between, model = steps(clock), ModelInUse(two.models, two.one.documents.job.model)
    real = two.models.get

    def slowly(pinned: PinnedModel) -> Bundle:
        before = len(two.models.loads)
        bundle = real(pinned)
        clock.now += 0.1 * (len(two.models.loads) - before)
        return bundle

    two.models.get = slowly  # type: ignore[method-assign]
    model.bundle  # noqa: B018
    turns = []
    for _ in range(40):
        clock.now += LOOK_EVERY_S
        two.one.ledger.waiting.add(PLAN)
        loads = len(two.models.loads)
        begun = clock.now
        between(two.engine, model)
        if len(two.models.loads) > loads:
            turns.append((begun, clock.now - begun))
    assert len(turns) > 2
    for (begun, took), (after, _) in itertools.pairwise(turns):
        assert after >= begun + took + TURNS_EVERY * took - 1e-9


def test_a_part_whose_model_cannot_be_loaded_again_is_scored_again(two: Two) -> None:
    real = two.models.get

    def fail_once(pinned: PinnedModel) -> Bundle:
        if two.models.loads == ["m", "n"] and pinned.name == "m" and not failed:
            failed.append(True)
            raise StoreUnavailable("503")
        return real(pinned)

    failed: list[bool] = []
    two.models.get = fail_once  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        two.score(steps(Clock(LOOK_EVERY_S)))
    assert two.is_planned()
    # The attempt is not counted, and no second process waits for the lease
    assert score_part(two.engine, "j", 0, "holder", is_retry=True) == (BATCHES * BATCH_ROWS, 0)


def test_nothing_keeps_the_model_after_the_end_of_the_part(two: Two) -> None:
    """The next part may need the memory for another model."""
    between = steps(Clock(LOOK_EVERY_S))
    two.score(between)
    two.models.get(OTHER)  # which asserts that no other model is in memory
    assert between.within is not None


@pytest.mark.parametrize("error", [ModelNotFound("it was deleted"), StoreUnavailable("503")])
def test_a_model_that_is_gone_does_not_harm_the_part_whose_turn_it_wants(two: Two, error: Exception) -> None:
    def ask(pinned: PinnedModel, in_use: Bundle) -> bool:
        raise error

    assert two.score(steps(Clock(LOOK_EVERY_S), can_take_turns=ask)) == (BATCHES * BATCH_ROWS, 0)
    assert not two.is_planned()
    assert two.one.ledger.waiting.take(60) == PLAN
    two.one.run()
    assert two.one.outcome.state == "succeeded"


def test_records_scored_meanwhile_do_not_bring_the_model_of_the_part_back(two: Two) -> None:
    """Between their batches, the room is that beside their own model only."""
    asked: list[int] = []
    outers: list[ModelInUse | None] = []

    def room(pinned: PinnedModel, *in_use: Bundle) -> bool:
        asked.append(len(in_use))
        outers.append(within._room.outer)
        return False

    between = steps(Clock(LOOK_EVERY_S), has_room=room)
    assert between.within is not None
    within = between.within
    outer, own = ModelInUse(two.models, two.one.documents.job.model), ModelInUse(two.models, OTHER)
    within._room.outer = outer
    own.bundle  # noqa: B018
    within(two.engine, own)
    assert asked == [1]
    assert outer.loaded is None
    own.release()
    outer.bundle  # noqa: B018
    between(two.engine, outer)
    assert asked[-1] == 1
    assert outers[-1] is outer
