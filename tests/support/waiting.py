"""Wait for an event rather than for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 240.0
"""After this time a test is taken to hang; on a slow, busy machine a test needs a tenth of it."""
_LOOK_EVERY_S = 0.03


def wait_until[T](happened: Callable[[], T | None], what: str, explain: Callable[[], str] = str) -> T:
    """Call `happened` until it returns a true value, and return that value.

    Parameters
    ----------
    happened : callable
        Called again and again.
    what : str
        Name of the event, for the error message.
    explain : callable, optional
        Returns text that helps to see why the event did not happen, such as a log.

    Raises
    ------
    AssertionError
        If the event has not happened within `HANG_S` seconds.
    """
    deadline = time.monotonic() + HANG_S
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited {HANG_S:.0f} s in vain for {what}\n{explain()}".strip()
        time.sleep(_LOOK_EVERY_S)
    return found
