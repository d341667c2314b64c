"""Does short steps of other jobs between two batches of a long part, so that they do not wait for its end."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scoreline.storage.container_memory import available_bytes
from scoreline.storage.errors import JobNotFound, LedgerError, PartInterrupted, describe
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.requests import Requests, so_far
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.inline import score_records
from scoreline.tasks.steps.long_steps import LONG_STEPS, MIN_MEMORY_BYTES, log_done, long_step
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.step_room import STEPS_OF_JOBS, NotShort, Room, StepRoom
from scoreline.tasks.steps.stints import LongStep, Stints
from scoreline.tasks.steps.turns import Turns

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""Minimum number of seconds between two looks at the waiting steps."""
LONGEST_S = 1.0
"""Number of seconds after which no further step is begun before the next batch, so that the part makes progress."""
LONGEST_IN_PART_S = 60.0
"""Number of seconds of short steps after which none is begun in the same part, so that the part ends within the time
limit of its task. Stints are counted apart and have the same limit: many records do not keep a plan from going on, nor
does a long plan keep records waiting."""
LONGEST_RECORDS_S = 20.0
"""If scoring records seems to take longer, they are only planned between two batches, and scored as parts. That is the
length of a part: the part under way waits no longer than if its process had scored a part of another group first.
Records that take longer than `LONGEST_S` let shorter steps pass between their own batches."""
LONGEST_WITHIN_S = 2.0
"""The same for records that are scored between two batches of such records."""
_MAX_LEFT = 20
"""Number of steps without room for their model after which a look ends."""


_NO_MODEL = PinnedModel(name="none", version="none", manifest_sha256="")
"""Stands for the model in use while none is."""


@dataclass(kw_only=True)
class ShortSteps:
    """Does the steps that wait, between two batches of a part (see `BetweenBatches`).

    The message of such a step stays in the queue. If the process dies or the step fails, the step is done when its
    message arrives. Otherwise, the message finds that the step is done.

    Parameters
    ----------
    has_room : callable
        Returns whether the process can load the first model without evicting the others, which are in use.
    can_take_turns : callable
        Returns whether the first model can soon be loaded in place of the second, which is in use.
    do_request : callable
        Does a step that is no step of a job: a request of an application. Returns whether the request is answered. The
        last argument is the number of seconds that scoring its records may take.
    model_of_request : callable
        Returns the model that such a step needs; None if it needs none.
    available : callable
        Returns the available memory in bytes.
    clock : callable
        Returns a time in seconds, like `time.monotonic`.
    """

    has_room: Room
    can_take_turns: Callable[[PinnedModel, Bundle], bool] = lambda model, in_use: False
    do_request: Callable[[Engine, WaitingStep, float], bool] = lambda engine, step, longest_s: False
    model_of_request: Callable[[WaitingStep], PinnedModel | None] = lambda step: None
    available: Callable[[], int] = available_bytes
    clock: Callable[[], float] = time.monotonic
    longest_records_s: float = LONGEST_RECORDS_S
    stints: Stints | None = field(default_factory=Stints)
    """The long steps that this process has begun; None if they are not done in stints."""
    within: ShortSteps | None = field(default=None, init=False)
    """Does steps between two batches of records that are scored between two batches of a part."""
    spent_s: float = field(default=0.0, init=False)
    _stints_s: float = field(default=0.0, init=False)
    """The part of `spent_s` that stints of long steps took."""
    requests: Requests = field(default=Requests(), init=False)
    _looked_s: float = field(default=float("-inf"), init=False)
    _room: StepRoom = field(init=False)
    _turns: Turns = field(init=False)
    _only_begins: bool = field(default=False, init=False)
    """Whether long steps only begin here, and go on when the records have ended between whose batches they begin."""
    _in_use: ModelInUse | None = field(default=None, init=False)
    """The model of the part during a stint that is not the first of its step."""

    def __post_init__(self) -> None:
        self._room = StepRoom(
            has_room=self.has_room,
            model_of_request=self.model_of_request,
            available=self.available,
            clock=self.clock,
            stints=self.stints,
        )
        self._turns = Turns(can_take_turns=self.can_take_turns, clock=self.clock)
        if self.longest_records_s > LONGEST_WITHIN_S:
            self.within = replace(self, longest_records_s=LONGEST_WITHIN_S)
            self.within._only_begins = True

    def begin_part(self) -> None:
        """Record that the process begins a part (see `BetweenBatches.begin_part`)."""
        self.spent_s, self._stints_s, self.requests = 0.0, 0.0, Requests()
        if self.stints is not None and not self._only_begins:
            self.stints.begin_part()

    def end_part(self, engine: Engine, *, interrupted: bool = False) -> None:
        """Record that the part has ended (see `BetweenBatches.end_part`). End planning that has begun."""
        if self.stints is None or self._only_begins:
            return
        while steps := self.stints.end_part():
            for step in steps:
                interrupted = interrupted or not self._end(engine, step)
                if interrupted:
                    step.abandon()

    def _end(self, engine: Engine, step: LongStep) -> bool:
        """Let a step work until it has ended, and do short steps meanwhile. Return False if that is interrupted."""
        within, none, left = self._engine_of_steps(engine), ModelInUse(engine.models, _NO_MODEL), list[WaitingStep]()
        try:
            while not step.go_on(LOOK_EVERY_S):
                self._do_all(within, none, left, frozenset())
                self._put_back(engine, left)
        except (SoftTimeLimitExceeded, PartInterrupted):  # by the time limit of the task of the part, which has ended
            return False
        finally:
            self._put_back(engine, left)
        return True

    def abandon(self) -> None:
        """End the steps that have begun, because this process ends. Other processes do them."""
        if self.stints is not None:
            self.stints.abandon()

    def __call__(self, engine: Engine, model: ModelInUse) -> float:
        """Do the steps that wait, at most every `LOOK_EVERY_S` seconds. Return the number of seconds that they took.

        Parameters
        ----------
        model : ModelInUse
            The model of the part. It stays in memory, unless a step has waited that no process has room for.

        Raises
        ------
        PartInterrupted
            A step was interrupted by the time limit of the task.
        """
        begun = self.clock()
        if begun - self._looked_s < LOOK_EVERY_S or not (self._has_time or self._has_time_for_stints):
            return 0.0
        within = self._engine_of_steps(engine)
        if self.within is not None:
            self.within._room.outer = model
        before_s, left, before = self.spent_s, list[WaitingStep](), so_far()
        try:
            self._do_all(within, model, left, frozenset())
            if turns := self._due_turns(model, left):
                self._take_turns(within, model, left, turns)
            self._go_on(model)
        finally:
            if self.within is not None:  # otherwise the model would stay in memory after the part
                self.within._room.outer = None
            self._put_back(engine, left)
            self._looked_s = self.clock()
            self.requests += so_far() - before
        return self.spent_s - before_s

    def _go_on(self, model: ModelInUse) -> None:
        """Let a long step that has begun go on for a stint."""
        if self.stints is None or self._only_begins or not self._has_time_for_stints:
            return
        begun, self._in_use, is_loaded = self.clock(), model, model.loaded is not None
        try:
            self.stints.go_on()
            if is_loaded:
                model.bundle  # noqa: B018  # loaded again if it left the memory, as in a turn
        except SoftTimeLimitExceeded:
            raise PartInterrupted(
                "a step of another job was done between two batches of this part until the time limit: the part is "
                "scored again"
            ) from None
        finally:
            self._in_use = None
            self._count(self.clock() - begun, is_stint=True)

    def _engine_of_steps(self, engine: Engine) -> Engine:
        """Return an engine for steps. They share neither the memory of the part nor the time of its challenger."""
        return replace(
            engine,
            between_batches=self.within,
            kept=KeptObjects(),
            challengers=replace(engine.challengers, spent_s=0.0),
            _documents=OrderedDict(),
            _sized=None,
        )

    def _do_all(
        self, engine: Engine, model: ModelInUse, left: list[WaitingStep], turns: frozenset[PinnedModel]
    ) -> None:
        """Do the steps that wait, for a while. Models in `turns` may be loaded in place of the model in use."""
        begun = self.clock()
        with contextlib.suppress(LedgerError):  # the messages are still in the queue
            while self._may_begin(begun, left) and (step := engine.ledger.waiting.take(engine.lease_s)) is not None:
                self._do(engine, step, model, left, turns)

    def _put_back(self, engine: Engine, left: list[WaitingStep]) -> None:
        """List steps again, for other processes."""
        with contextlib.suppress(LedgerError):
            for step in left:
                engine.ledger.waiting.add(step)
        left.clear()

    def _due_turns(self, model: ModelInUse, left: list[WaitingStep]) -> frozenset[PinnedModel]:
        """Return the models that are to be loaded in place of the model in use, because their steps have waited."""
        if self.within is None or not self._has_time:
            return frozenset()
        return self._turns.due(self._room.models_awaited(left), model)

    def _take_turns(
        self, engine: Engine, model: ModelInUse, left: list[WaitingStep], turns: frozenset[PinnedModel]
    ) -> None:
        """Do steps with their models in place of the model of the part, and load the latter again."""
        self._put_back(engine, left)
        before_s, begun = self.spent_s, self.clock()
        try:
            self._do_all(engine, model, left, turns)
            model.bundle  # noqa: B018  # the time of loading it counts as that of the other jobs
        finally:
            took_s = self.clock() - begun
            self.spent_s = before_s + took_s
            self._turns.end(took_s)

    @property
    def _has_time(self) -> bool:
        """Whether short steps may begin in this part."""
        return self.spent_s - self._stints_s < LONGEST_IN_PART_S

    @property
    def _has_time_for_stints(self) -> bool:
        """Whether long steps may go on in this part."""
        return self._stints_s < LONGEST_IN_PART_S

    def _count(self, seconds: float, *, is_stint: bool) -> None:
        self.spent_s += seconds
        self._stints_s += seconds if is_stint else 0.0

    def _may_begin(self, begun: float, left: list[WaitingStep]) -> bool:
        if self.clock() - begun >= LONGEST_S or not self._has_time or len(left) >= _MAX_LEFT:
            return False
        return self.available() >= MIN_MEMORY_BYTES

    def _do(
        self,
        engine: Engine,
        step: WaitingStep,
        model: ModelInUse,
        left: list[WaitingStep],
        turns: frozenset[PinnedModel],
    ) -> None:
        """Do a step, and count its time. Add it to `left` if another process may be able to do it."""
        waiting, seconds, begun = engine.ledger.waiting, engine.lease_s, self.clock()
        runs = done = begins = False
        in_stints = self.stints is not None and step.task in LONG_STEPS
        try:
            with keep_renewed(lambda: waiting.renew(step, seconds), seconds / 3):
                has_time = not in_stints or self._has_time_for_stints  # it would pause until the end of the part
                if not (has_time and self._room.holds_model(engine, step, model, turns)):
                    left.append(step)
                    return
                if not self._room.holds_memory(engine, step):
                    return
                runs = True
                if self.stints is not None and in_stints:
                    begins = True
                    self.stints.begin(self._long_step(engine, step, takes_turn=bool(turns)))
                    return
                done = self._run(engine, step)
                if done:
                    log_done(step)
        except (JobNotFound, NotShort):
            pass
        except SoftTimeLimitExceeded:
            raise PartInterrupted(
                f"the step {step.task!r} of job {step.job_id} was done between two batches of this part, and took "
                "until the time limit: the part is scored again"
            ) from None
        except PartInterrupted:  # of records between whose batches a further step was done
            raise
        except Exception as error:  # noqa: BLE001  # the message of the step retries it, or fails the job
            log.warning("step.left", extra={"job_id": step.job_id, "task": step.task, "error": describe(error)})
        finally:
            if runs:
                self._count(self.clock() - begun, is_stint=begins)
            if not begins:
                with contextlib.suppress(LedgerError):
                    waiting.end(step, done=done)

    def _run(self, engine: Engine, step: WaitingStep) -> bool:
        """Do a step. Return False if the step is left to its message."""
        if step.task not in STEPS_OF_JOBS:
            return self.do_request(engine, step, self.longest_records_s)
        with engine.span(step):
            _run(engine, step, self.longest_records_s)
        return True

    def _long_step(self, engine: Engine, step: WaitingStep, *, takes_turn: bool = False) -> LongStep:
        """Return a step that is done in stints. When it has ended, it is no longer taken.

        Parameters
        ----------
        takes_turn : bool
            Whether the model of the step has no room beside the model in use, which must then leave the memory.
        """

        def make_room() -> None:
            if takes_turn and self._in_use is not None:  # the turn in which the step began is over
                self._in_use.release()

        return long_step(engine, step, lambda gated: _run(gated, step, self.longest_records_s), make_room)


def _run(engine: Engine, step: WaitingStep, longest_s: float) -> None:
    """Do a step of a job. Leave records that seem to take longer than `longest_s` to a process that scores parts."""
    match step.task:
        case "scoreline.plan":
            plan_job(engine, step.job_id)
        case "scoreline.finalize":
            finalize(engine, step.job_id)
        case "scoreline.score_staged":
            carried = Carried.of(step.carried)
            score_records(engine, step.job_id, secrets.token_hex(8), carried, longest_s=longest_s)
