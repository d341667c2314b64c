"""A guard process, which runs a command. When the guard's parent ends, the guard ends the command and its children.

In ``python -m scoreline.worker.dev.guard FD COMMAND...``, FD is the reading end of a pipe. Only the parent of the guard
has the writing end of the pipe open. When the parent ends, even by SIGKILL, the kernel closes the pipe. The guard then
ends the process group of the command.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 8.0


def main() -> int:
    """Run the command, and return its exit code."""
    lifeline = int(sys.argv[1])
    ignore_signals()
    try:
        child = subprocess.Popen(sys.argv[2:], start_new_session=True, preexec_fn=default_signals)
    except OSError as error:
        sys.stderr.write(f"error: cannot run {sys.argv[2]!r}: {error.strerror}\n")
        return 127
    return watch(child, lifeline)


def watch(child: subprocess.Popen[bytes], lifeline: int) -> int:
    """Wait for the command, and return its exit code. If the pipe is closed, end the command."""
    try:
        while child.poll() is None:
            if select.select([lifeline], [], [], 0.1)[0]:
                _end(child, signal.SIGTERM)
                break
    finally:
        _end(child, signal.SIGKILL)
    code = child.wait()
    return 128 - code if code < 0 else code  # after a signal: 128 plus its number, as in a shell


def ignore_signals() -> None:
    """Ignore signals, so that the guard ends only when its command ends or its pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def default_signals() -> None:
    """Restore the default signal handlers in the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the whole process group. After SIGTERM, wait up to `GRACE_S` seconds for the group to end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
    deadline = time.monotonic() + GRACE_S
    while number == signal.SIGTERM and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
