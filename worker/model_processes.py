"""Lets models start child processes, and ends these children together with their parent.

Celery marks its pool processes as daemons. Python forbids daemons to have children, because the children would survive
if the daemon were killed. Some models need children, for example encoders that use a ``multiprocessing.Pool``. This
module removes the daemon mark, and makes the kernel end the children.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl for a signal that the process receives when its parent dies (linux/prctl.h)."""
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that Celery handles in its pool processes. Children of pool processes get the default handlers of the system,
because ``multiprocessing`` expects that its processes end at once. A handler of Celery raises ``SystemExit``, which
gets lost in a starting process."""
_JOIN_S = 1.0


def allow_children(**_: Any) -> None:
    """Let this process start children. On Linux, forked children are killed when this process ends.

    Spawned pool processes end by themselves, because the pipes to their parent close. Signals are blocked during a
    fork, so that no signal reaches a handler of the parent in the child.
    """
    process: Any = multiprocessing.process.current_process()
    process._config["daemon"] = False
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux
        return
    forking: list[tuple[int, Any]] = []

    def before() -> None:
        forking.append((os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)))

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.pop()[1])

    def in_child() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent, mask = forking.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() != parent:  # the parent died before prctl was called
            os._exit(1)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def end_children(**_: Any) -> None:
    """End the child processes that models have left running."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(_JOIN_S)
        if child.is_alive():
            child.kill()
