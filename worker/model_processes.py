"""Lets models start processes of their own, and ends these processes together with the one that started them.

Celery marks the processes of its pool as daemons, and Python forbids daemons to have children, because nobody would end
these if a daemon is killed. Some models do have children: encoders that split their work, or anything that uses a
``multiprocessing.Pool``. Here the mark is removed, and the kernel ends the children.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that names a signal for when the parent dies (linux/prctl.h)."""
_JOIN_S = 1.0


def allow_children(**_: Any) -> None:
    """Let this process start others. They are killed when it dies, however it dies, as far as the system can do that.

    Linux does so for every child that is forked. Pools whose processes are spawned end by themselves, because the
    pipes to their parent close.
    """
    process: Any = multiprocessing.process.current_process()
    process._config["daemon"] = False
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        prctl = ctypes.CDLL(None).prctl
        forking: list[int] = []

        def die_with_parent() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != forking[-1]:  # the parent has died in between
                os._exit(1)

        os.register_at_fork(before=lambda: forking.append(os.getpid()), after_in_child=die_with_parent)


def end_children(**_: Any) -> None:
    """End the processes that models have left running."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(_JOIN_S)
        if child.is_alive():
            child.kill()
