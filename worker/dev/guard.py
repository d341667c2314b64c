"""Runs one command and ends it, with all its children, when whoever asked for it is gone.

``python -m scoreline.worker.dev.guard FD COMMAND...``: FD is the reading end of a pipe whose writing end only
the asker holds. The kernel closes that end however the asker ends, SIGKILL included;
the guard then ends the command's process group.
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
    """Run the command; returns its exit status."""
    lifeline = int(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the asker decides, by closing the pipe
    try:
        child = subprocess.Popen(sys.argv[2:], start_new_session=True, preexec_fn=_default_signals)
    except OSError as error:
        sys.stderr.write(f"error: cannot run {sys.argv[2]!r}: {error.strerror}\n")
        return 127
    try:
        while child.poll() is None:
            if select.select([lifeline], [], [], 0.1)[0]:
                _end(child, signal.SIGTERM)
                break
    finally:
        _end(child, signal.SIGKILL)
    code = child.wait()
    return 128 - code if code < 0 else code  # as a shell tells of a signal


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the whole group; after SIGTERM, wait for it for a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
    deadline = time.monotonic() + GRACE_S
    while number == signal.SIGTERM and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
