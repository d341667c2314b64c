"""Keeps a challenger from harming the job: limits its time, and remembers where it has failed."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from scoreline.storage.errors import ModelUnloadable, ScorelineError, describe
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.scoring.model_calls import ModelExit, call_model

PART_S = 120.0
"""Maximum number of seconds for which a challenger may score a part. A part should take its champion some 20 s, and all
of a part may take nine minutes."""
PLAN_S = 30.0
"""Maximum number of seconds for which a challenger may be tried while a job is planned."""
MAX_REJECTED = 1_000
"""Maximum number of rows of a batch that a challenger may reject, in addition to those that the champion rejects. The
search for rejected rows may take long."""
_AGAIN_S = 1.0
_JOBS_KEPT = 256


class ExtraUnreadable(Exception):
    """Raised if a column that is read only for the challenger cannot be read, or has a value that cannot be decoded.

    The rows must then be read without these columns, because the job must score them as without a challenger.
    """


@dataclass(kw_only=True)
class FailedChallengers:
    """The jobs whose challenger must not be tried again in this process, because the next part would fail, too."""

    _reasons: OrderedDict[str, str] = field(default_factory=OrderedDict)
    spent_s: float = 0.0
    """Seconds that the challenger of the current part has taken so far."""

    def reason(self, job_id: str) -> str:
        """Return why the challenger of a job is not tried; empty if it is."""
        return self._reasons.get(job_id, "")

    def add(self, job_id: str, reason: str) -> None:
        """Do not try the challenger of a job again."""
        self._reasons[job_id] = reason
        while len(self._reasons) > _JOBS_KEPT:
            self._reasons.popitem(last=False)


def too_slow(seconds: float) -> TimeoutError:
    """Return the error of a challenger that takes too long. It is never taken for an error about rows."""
    return TimeoutError(errno.ETIMEDOUT, f"it takes more than {seconds:g} s")


@contextlib.contextmanager
def limited(seconds: float, limit_s: float) -> Iterator[None]:
    """Raise `too_slow` in the block after so many seconds, even from within a call of the model.

    Parameters
    ----------
    limit_s : float
        The limit that the error names.
    """
    if seconds <= 0:
        raise too_slow(limit_s)
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
        yield
        return

    def interrupt(*_: Any) -> None:
        raise too_slow(limit_s)

    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    # The error is raised again and again, because the code of a model may catch it
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # even if the signal arrives in the block above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left_s:  # a timer of the application
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - begun), 1e-3), interval_s)


def load_beside(models: Any, pinned: PinnedModel, champion: Bundle) -> Bundle:
    """Load a challenger, if it fits into the memory for models together with the champion.

    Raises
    ------
    ModelUnloadable
        It does not fit, or cannot be loaded.
    """
    has_room = getattr(models, "has_room_beside", None)
    if has_room is not None and not has_room(pinned, champion):
        raise ModelUnloadable(
            f"{pinned.ref} does not fit into the memory for models beside {champion.manifest.ref}: raise "
            "MODEL_CACHE_MB, lower WORKER_CONCURRENCY, or use a larger machine"
        )
    try:
        found: Bundle = call_model(lambda: models.get(pinned))
    except ModelExit as error:
        raise ModelUnloadable(f"{pinned.ref} cannot be loaded: {error}") from error
    return found


def reason_of(error: Exception) -> str:
    """Return one line that says why a challenger failed."""
    if isinstance(error, TimeoutError) and error.errno == errno.ETIMEDOUT:
        return f"it is too slow: {error.strerror}"
    if isinstance(error, ExtraUnreadable):
        return f"a column that only it needs cannot be read: {error}"
    return describe(error)


def fails_again(error: Exception) -> bool:
    """Return whether the challenger would fail with the same error in the next part, after the same time or memory.

    The rows of a part with an unreadable column are read twice, so this must not happen in each part.
    """
    if isinstance(error, (ModelUnloadable, ExtraUnreadable)):
        return True
    return isinstance(error, (MemoryError, TimeoutError)) and not isinstance(error, ScorelineError)
