"""Ends the services of a test at once, because an idle worker takes three seconds to stop gracefully."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from scoreline.worker.dev.stack import SEAWEED, Stack


@contextlib.contextmanager
def killed_at_end(stack: Stack) -> Iterator[Stack]:
    """Run the services of a stack, and kill all processes below its guards when the block ends.

    Only SeaweedFS is ended by its guard, because it ends quickly and has to remove its sockets first.
    """
    with stack:
        try:
            yield stack
        finally:
            for pid in stack.guard_pids():
                with contextlib.suppress(psutil.NoSuchProcess):
                    for process in psutil.Process(pid).children(recursive=True):
                        if SEAWEED not in process.cmdline() and process.name() != "weed":
                            process.kill()
