"""Holds and renews the lease of a process that works on a part or a step of a job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from scoreline.storage.errors import LedgerError, ProcessDied
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch import renewal
from scoreline.tasks.dispatch.dispatcher import Dispatcher

STEP_ATTEMPTS = 3
"""Maximum number of attempts at a step. If the process dies in every attempt, the job fails."""


@contextlib.contextmanager
def keep_renewed(renew: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `renew` every `every_s` seconds while the block runs. A failed renewal does not stop later renewals.

    After the block, `renew` is not running, and is not called again.
    """
    held = renewal.keep(renew, every_s)
    try:
        yield
    finally:
        held.end()


def object_notes(dispatcher: Dispatcher, job_id: str, step: str) -> Callable[[str], None]:
    """Return a function that records the object that a step or a part is about to read.

    Damaged bytes may end the process inside a library. Such a process cannot say which object it was reading.
    """

    def note(uri: str) -> None:
        with contextlib.suppress(LedgerError):  # the note only makes an error clearer
            dispatcher.ledger.note_object(job_id, step, uri)

    note("")
    return note


def describe_deaths(dispatcher: Dispatcher, job_id: str, step: str, deaths: int, where: str) -> str:
    """Return the message about a step or a part whose process died each time.

    Parameters
    ----------
    where : str
        What the process did, such as ``at the step 'plan'``.
    """
    died = f"the worker process died {plural(deaths, 'time')} {where}"
    uri = ""
    with contextlib.suppress(LedgerError):
        uri = dispatcher.ledger.noted_object(job_id, step)
    if not uri:
        return f"{died}: it may be out of memory"
    return f"{died}, the last time after it began to read {uri}: the object may be damaged, or memory may be too small"


class AttemptedBefore(Exception):
    """Raised if a step was attempted before, or is under way in another process."""


@contextlib.contextmanager
def hold_step(dispatcher: Dispatcher, job_id: str, name: str, *, only_first: bool = False) -> Iterator[int]:
    """Hold the lease of a job's step while the block runs. Yield the number of the attempt, from 1.

    Parameters
    ----------
    only_first : bool
        Whether only the first attempt may be made here.

    Raises
    ------
    AttemptedBefore
        This would not be the first attempt.
    ProcessDied
        The process died in every earlier attempt, and no attempt is left.
    """
    ledger, lease_s = dispatcher.ledger, dispatcher.lease_s
    attempt = ledger.begin_step(job_id, name, lease_s)
    will_retry = False
    try:
        if only_first and attempt > 1:
            raise AttemptedBefore
        if attempt > STEP_ATTEMPTS:
            raise ProcessDied(describe_deaths(dispatcher, job_id, name, attempt - 1, f"at the step {name!r}"))
        with keep_renewed(lambda: ledger.renew_step(job_id, name, lease_s), lease_s / 3):
            yield attempt
    except BaseException:
        will_retry = True
        raise
    finally:  # a process that dies does not reach this line
        ledger.end_step(job_id, name, will_retry=will_retry)
