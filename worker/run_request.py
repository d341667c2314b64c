"""Does a request of an application between two batches of a part, and answers it, as Celery would do its message.

The message stays with the main process of a worker (see `scoreline.worker.held_requests`). If the request cannot be
done here, for example because the store does not answer, nothing is answered, and the message decides what to do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, Task
from celery.app.trace import trace_task_ret
from celery.exceptions import Ignore, Reject

from scoreline.storage.errors import PartInterrupted, ScorelineError
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.worker.packed_request import PackedRequest, has_expired

_MARK = "scoreline_between_batches"
"""Key of the request's context in Celery. If the request is done between two batches, it has the number of seconds that
scoring its records may take."""


class _Seconds(float):
    """The value of `_MARK`. No message can contain it, although Celery adds the headers of a message to the context."""


class LeftToMessage(BaseException):
    """Raised to end a request without an answer. Celery stores an answer for each `Exception`."""


class _Interrupted(BaseException):
    """Raised if the time limit of the part interrupts a request."""


def is_between_batches(task: Task[Any, Any]) -> bool:
    """Return whether a task is done between two batches of a part, without its message."""
    return isinstance(task.request.get(_MARK), _Seconds)


def longest_between_batches_s(task: Task[Any, Any]) -> float | None:
    """Return how many seconds a request may take that is done between two batches; None if it has its message."""
    seconds = task.request.get(_MARK)
    return float(seconds) if isinstance(seconds, _Seconds) else None


@contextlib.contextmanager
def interruptible(task: Task[Any, Any]) -> Iterator[None]:
    """Let the time limit of a part interrupt the request in the block, instead of failing the request."""
    try:
        yield
    except (SoftTimeLimitExceeded, PartInterrupted):
        if is_between_batches(task):
            raise _Interrupted from None
        raise


def run_request(app: Celery, step: WaitingStep, longest_s: float) -> bool:
    """Do a request, and store its answer. Return False if it is left to its message.

    Parameters
    ----------
    longest_s : float
        Leave records that seem to take longer.

    Raises
    ------
    SoftTimeLimitExceeded
        The time limit of the part interrupted the request.
    """
    packed = PackedRequest.of(step)
    if packed is None or has_expired(packed.headers):
        return False
    request: dict[str, Any] = {
        **packed.headers,
        **packed.properties,
        "properties": packed.properties,
        "delivery_info": {"exchange": "", "routing_key": None, "priority": None, "redelivered": False},
        _MARK: _Seconds(longest_s),
    }
    try:
        _, answer, _ = trace_task_ret(
            step.task, step.job_id, request, packed.body, packed.content_type, packed.content_encoding, app=app
        )
    except LeftToMessage:
        return False
    except _Interrupted:
        raise SoftTimeLimitExceeded from None
    return not _is_unanswered(answer)


def _is_unanswered(answer: Any) -> bool:
    """Return whether Celery itself has failed, for example at storing the answer, and not the task."""
    if not isinstance(answer, ExceptionInfo) or not answer.internal:
        return False
    return answer.type is None or not issubclass(answer.type, Ignore | Reject)


def model_of_request(registry: ModelRegistry, step: WaitingStep) -> PinnedModel | None:
    """Return the model that a request needs in memory; None if it needs none, or if its model is not found."""
    if step.task != "scoreline.score_records" or (packed := PackedRequest.of(step)) is None:
        return None
    try:
        arguments, named, _ = json.loads(packed.body)
        model = named.get("model") or (arguments or [None])[0]
        return registry.resolve(model) if isinstance(model, str) else None
    except (ScorelineError, ValueError, TypeError, AttributeError, LookupError):
        return None
