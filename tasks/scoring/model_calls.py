"""Calls the code of a model, and decides whether an exception that it raises is due to the rows."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from scoreline.storage.errors import ScorelineError
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded, is_terminating

_NOT_THE_ROWS = (ScorelineError, SoftTimeLimitExceeded, MemoryError, ImportError, BrokenExecutor)
"""Exceptions that are not caused by the rows. On another machine or at another time, the same rows might be scored."""


class ModelExit(Exception):
    """Raised in place of an exception that would end the process, such as ``SystemExit`` from a model.

    A model must not end a worker process. The message would be delivered again, and then end the next process too.
    """


def call_model[T](function: Callable[[], T]) -> T:
    """Call a function of a model, and return its result.

    Raises
    ------
    ModelExit
        The function raised an exception that is not a subclass of ``Exception``. If the worker is terminating, or if
        the user has pressed Ctrl-C, the original exception is raised unchanged.
    Exception
        Any other exception of the function.
    """
    try:
        result = function()
    except Exception:
        if is_terminating():  # the function was interrupted, and then raised another error while cleaning up
            raise SystemExit from None
        raise
    except BaseException as error:
        ctrl_c = isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        if ctrl_c or is_terminating():
            raise
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ModelExit(
            f"{said} (the model's code tries to end its process: have it raise an error instead)"
        ) from error
    if is_terminating():  # the function was interrupted, but caught the exception
        raise SystemExit
    return result


def is_about_rows(error: Exception) -> bool:
    """Return whether an exception of a model may be due to the rows that it was called with.

    An exception may be due to the rows unless it is known to be due to the machine: too little memory, a missing
    module, a process that died, or an error of the operating system. Libraries define too many exceptions to list those
    that are due to rows.

    >>> is_about_rows(RuntimeError("too large")), is_about_rows(MemoryError()), is_about_rows(OSError(28, "disk full"))
    (True, False, False)
    """
    of_the_system = isinstance(error, OSError) and error.errno is not None  # libraries raise OSError without errno
    return not of_the_system and not isinstance(error, _NOT_THE_ROWS)


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error.

    The other lines of an error of scikit-learn give advice on fitting a model.
    """
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, ModelExit) else f"{type(error).__name__}: {lines[0].strip()}"
