"""A pool process can run models that start processes, although Celery marks pool processes as daemons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

POOLED = """
import os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from billiard import Process
from billiard.common import reset_signals
from scoreline.worker.model_processes import allow_children, end_children

how, fifo = sys.argv[1:]


early = []


def work():
    signal.signal(signal.SIGTERM, lambda *_: None)
    reset_signals()  # as billiard does in the processes of its pool
    os.register_at_fork(after_in_child=lambda: early and os.kill(os.getpid(), signal.SIGTERM))
    allow_children()
    forked = multiprocessing.get_context("fork")
    with forked.Pool(2) as pool:
        print(pool.map(abs, [-1, 2, -3]), flush=True)
    early.append(True)  # a pool may be ended while its processes are still starting
    ended = forked.Process(target=print, args=("has survived",))
    ended.start()
    ended.join()
    print(ended.exitcode, flush=True)
    early.clear()
    lifeline = os.open(fifo, os.O_WRONLY)  # inherited by the processes below
    kept = ProcessPoolExecutor(2, mp_context=forked)
    print(list(kept.map(abs, [-4, 5])), flush=True)
    stuck = forked.Process(target=time.sleep, args=(3600,))
    stuck.start()
    os.close(lifeline)
    if how == "shutdown":
        end_children()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


daemon = Process(target=work, daemon=True)
daemon.start()
daemon.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot end the children of a process that is killed")
@pytest.mark.parametrize("how", ["killed", "shutdown"])
def test_a_process_of_the_pool_starts_processes_and_leaves_none_behind(tmp_path: Path, how: str) -> None:
    fifo = tmp_path / "lifeline"
    os.mkfifo(fifo)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", POOLED, how, str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        with fifo.open("rb") as lifeline:
            assert lifeline.read() == b""  # the read ends after every process has closed the other end
        assert running.stdout is not None
        assert running.stdout.read() == "[1, 2, 3]\n-15\n[4, 5]\n"
    assert running.returncode == 0
