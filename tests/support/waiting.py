"""Wait for an event rather than for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 240.0
"""After this time, a test counts as hanging. On a slow, busy machine, a test needs a tenth of this time."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.15
"""Pauses between two looks grow from the first to the longest, because each look may cost a request."""


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
    begun = time.monotonic()
    while not (found := happened()):
        waited = time.monotonic() - begun
        assert waited < HANG_S, f"waited {HANG_S:.0f} s in vain for {what}\n{explain()}".strip()
        time.sleep(min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, waited / 20)))
    return found
