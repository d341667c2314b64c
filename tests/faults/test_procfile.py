"""Run the Procfile's commands unchanged under honcho, and count the Redis connections that they hold."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import joblib
import psutil
from celery import Celery

from scoreline.worker.dev.stack import ROOT, Guard
from scoreline.worker.settings import BEAT_CONNECTIONS, PASSING_CONNECTIONS, worker_connections
from tests.support.estimators import Staged
from tests.support.rig import HASTE, Rig
from tests.support.waiting import HANG_S, wait_until

HEROKU_MINI = 20
"""Connections that Heroku's smallest Redis plan allows."""
KILLS_NOTHING = "import honcho.manager as m; m.KILL_WAIT = 10**6; from honcho.command import main; main()"
"""By default, honcho kills a process that does not end within 5 s, which would hide that it hangs."""
LEFT_TO_THE_LINES = ("REMAP_SIGTERM", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def start(rig: Rig, *names: str, **extra: str) -> Guard:
    """Run commands of the Procfile, in an environment without the variables that these commands set."""
    unset = [word for name in LEFT_TO_THE_LINES for word in ("-u", name)]
    honcho = [sys.executable, "-c", KILLS_NOTHING, "-d", str(ROOT)]
    lines = ["-f", str(ROOT / "Procfile"), "-e", os.devnull, "start", *names]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = rig.environ | HASTE | {"PATH": path} | extra
    return rig.stack.run(["env", *unset, *honcho, *lines], rig.stack.folder / "worker-honcho.log", environ)


def test_a_dyno_that_gets_sigterm_twice_puts_its_parts_back_into_the_queue(rig: Rig, tmp_path: Path) -> None:
    # Given beat, and a worker that scores one part on each core, where each part waits for the file `gate`
    cores, gate, calls = joblib.cpu_count(), tmp_path / "gate", tmp_path / "calls"
    rig.publish(Staged(gate=str(gate), calls=str(calls)))
    guard = start(rig, "worker", "beat", SOFT_SHUTDOWN_SECONDS="1")
    app = Celery(broker=rig.environ["REDIS_URL"])
    (settings,) = wait_until(
        lambda: app.control.inspect(timeout=1).conf(), "an answer of the worker", rig.logs
    ).values()
    assert settings["worker_concurrency"] == cores
    assert 400 << 10 < settings["worker_max_memory_per_child"] <= psutil.virtual_memory().total >> 10
    job = rig.submit(2 * cores)
    rig.wait(lambda: calls.exists() and calls.stat().st_size == cores, "a part under way for each core")
    # When every process receives SIGTERM, and a second SIGTERM while it stops, as on Heroku
    processes = psutil.Process(guard.pid).children(recursive=True)
    assert len(processes) >= 1 + 2 + cores  # honcho, the two commands, and the pool processes
    for _ in range(2):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        rig.wait(lambda: "Initiating Soft Shutdown" in rig.logs(), "a worker that stops")
    # Then all processes end, and the unfinished parts are back in the queue, without counting as attempts
    rig.wait_for_exit(processes)
    assert rig.redis.hlen("unacked") == 0
    assert rig.client.status(job.job_id).parts_done == 0
    assert len(rig.messages()) == 2 * cores
    state = rig.redis.hgetall(rig.state_key(job.job_id))
    flights = [value for name, value in state.items() if name[1:].isdigit()]
    assert [flight.split()[1] for flight in flights] == [b"0"] * 2 * cores
    # And the next dyno finishes the parts
    gate.touch()
    start(rig, "worker", "beat")
    rig.verify(rig.end(job))


def test_the_release_phase_passes_a_working_deployment_and_stops_a_broken_one(rig: Rig) -> None:
    assert start(rig, "release", DYNO="release.1").wait(HANG_S) == 0, rig.logs()
    assert start(rig, "release", DYNO="release.1", R2_BUCKET="no-such-bucket").wait(HANG_S) == 1
    assert "no bucket 'no-such-bucket'" in rig.logs()


def test_a_worker_does_not_start_without_its_settings(rig: Rig) -> None:
    assert start(rig, "worker", R2_BUCKET="").wait(HANG_S) == 1
    assert "error: invalid settings: R2_BUCKET is not set" in rig.logs()


def test_a_worker_of_four_processes_and_beat_fit_into_the_smallest_redis_plan(rig: Rig) -> None:
    def connections() -> int:
        return len(rig.redis.client_list()) - own

    # Given the number of Redis connections that the test itself holds
    rig.publish(seconds=0.2)
    rig.client.status(rig.submit(1).job_id)
    own = len(rig.redis.client_list())
    # Given beat, which closes its connection after each message
    rig.start_beat(TICK_SECONDS="1")
    rig.wait(lambda: rig.redis.llen(rig.clock_queue), "a message of beat")
    rig.wait(lambda: connections() == 0, "an end of beat's connection")
    rig.start_worker(4, REDIS_IDLE_SECONDS="1")
    # When every process is busy, and beat makes a worker count the processes
    job = rig.submit(60, folder="more")
    most = []
    while not rig.client.status(job.job_id).ended:
        most.append(connections())
        time.sleep(0.02)
    rig.verify(rig.client.status(job.job_id))
    # Then there are no more connections than the doctor calculates, and fewer than the plan allows
    assert max(most) > 4
    assert max(most) <= worker_connections(4) + BEAT_CONNECTIONS + PASSING_CONNECTIONS < HEROKU_MINI
    # And an idle worker keeps only two connections, on which it waits for messages and for commands
    rig.kill(rig.clocks())
    rig.wait(lambda: connections() == 2, "an end of the connections that nothing uses")
