"""Waiting for an event rather than for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 240.0
"""After this long something has hung; a slow machine with busy cores needs a tenth of it."""
_LOOK_EVERY_S = 0.03


def wait_until[T](happened: Callable[[], T | None], what: str, explain: Callable[[], str] = str) -> T:
    """Return what `happened` returns, as soon as that is true.

    Parameters
    ----------
    happened : callable
        Is asked again and again.
    what : str
        The event, for the message.
    explain : callable, optional
        Text that helps to see why it did not happen, such as a log.

    Raises
    ------
    AssertionError
        It has not happened within `HANG_S` seconds.
    """
    deadline = time.monotonic() + HANG_S
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited {HANG_S:.0f} s in vain for {what}\n{explain()}".strip()
        time.sleep(_LOOK_EVERY_S)
    return found
