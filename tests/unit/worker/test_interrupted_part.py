"""A pool process that is interrupted can release its part, although a second signal arrives meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

POOLED = """
import os, signal, sys
from billiard import Process
from billiard.common import TERM_SIGNAL, reset_signals
from scoreline.worker import interrupted_part

grace_s = float(sys.argv[1])


def work(in_child, in_parent):
    signal.signal(TERM_SIGNAL, lambda *_: None)
    reset_signals()  # as billiard does in the processes of its pool
    interrupted_part.GRACE_S = grace_s
    interrupted_part.allow_release()
    try:
        os.write(in_parent, b"r")  # runs
        os.read(in_child, 1)
    except SystemExit:
        os.write(in_parent, b"i")  # interrupted
        os.read(in_child, 1)
        print("released", flush=True)
        raise


child_end, to_child = os.pipe()
from_child, parent_end = os.pipe()
running = Process(target=work, args=(child_end, parent_end))
running.start()
for state in (b"r", b"i"):
    assert os.read(from_child, 1) == state
    os.kill(running.pid, TERM_SIGNAL)
os.write(to_child, b"g")
running.join()
print(running.exitcode, flush=True)
"""


@pytest.mark.parametrize(("grace_s", "printed"), [("240", ["released", "15"]), ("-1", ["70"])])
def test_a_second_signal_ends_an_interrupted_process_only_after_some_time(grace_s: str, printed: list[str]) -> None:
    command = ["env", "-u", "REMAP_SIGTERM", sys.executable, "-W", "ignore::DeprecationWarning", "-c", POOLED, grace_s]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == printed, done.stderr
