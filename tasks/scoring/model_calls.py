"""Calls the code of a model, which may raise anything, and decides whether an exception is due to the rows."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from scoreline.storage.errors import ScorelineError
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded, is_terminating

_NOT_THE_ROWS = (ScorelineError, SoftTimeLimitExceeded, MemoryError, ImportError, BrokenExecutor)
"""Exceptions that say nothing about the rows: on another machine, or at another time, they might be scored."""


class ModelExit(Exception):
    """Raised in place of an exception that would end the process, such as ``SystemExit`` from a model.

    The process belongs to the worker. If it ended, the message would be delivered again, and end the next process.
    """


def call_model[T](function: Callable[[], T]) -> T:
    """Return what a function of a model returns.

    Raises
    ------
    ModelExit
        The function raised an exception that is not an ``Exception``. It is passed on if the worker is terminating, or
        if the user has pressed Ctrl-C.
    Exception
        Whatever else the function raises.
    """
    try:
        result = function()
    except Exception:
        if is_terminating():  # the function was interrupted, and its cleanup then failed
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
    if is_terminating():  # the function has swallowed the interruption
        raise SystemExit
    return result


def is_about_rows(error: Exception) -> bool:
    """Return whether an exception of a model may be due to the rows that it was called with.

    Libraries have exceptions of their own, so that every exception counts except those that are known to be due to the
    machine: too little memory, a missing module, a process that died, or an error of the operating system.

    >>> is_about_rows(RuntimeError("too large")), is_about_rows(MemoryError()), is_about_rows(OSError(28, "disk full"))
    (True, False, False)
    """
    of_the_system = isinstance(error, OSError) and error.errno is not None  # errors of libraries have none
    return not of_the_system and not isinstance(error, _NOT_THE_ROWS)


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error. In scikit-learn, the other lines give advice on fitting."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, ModelExit) else f"{type(error).__name__}: {lines[0].strip()}"
