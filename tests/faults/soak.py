"""Cause random faults for MINUTES: ``python -m tests.faults.soak MINUTES [SEED]``, or ``make soak MINUTES=n``.

Each round draws several faults from a seed, runs a job through them, prints the seed, and checks every invariant.
The script stops with status 1 at the first invariant that does not hold.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.rig import Rig

PARTS = 40
KINDS = ["500", "503", "429", "cut", "lost", "stall"]


def faults(rig: Rig, chance: random.Random) -> dict[str, Callable[[], object]]:
    """Return the faults by name."""

    def kill_child() -> None:
        if children := rig.children():
            chance.choice(children).kill()

    def kill_worker() -> None:
        for process in rig.parents() + rig.children():
            process.kill()
        rig.start_worker(2, R2_TIMEOUT_SECONDS="2")

    def stop_worker() -> None:
        processes = rig.parents() + rig.children()
        for process in processes:
            process.terminate()
        rig.start_worker(2, R2_TIMEOUT_SECONDS="2")

    def lose_messages() -> None:
        for message in rig.messages():
            rig.redis.lrem(rig.queue, 1, message.decode())

    def double_messages() -> None:
        for message in rig.messages():
            rig.redis.lpush(rig.queue, message)

    return {
        "kill a child": kill_child,
        "kill the worker": kill_worker,
        "stop the worker": stop_worker,
        "empty Redis": rig.redis.flushall,
        "restart Redis": rig.stack.restart_valkey,
        "cut all connections": lambda: rig.redis.execute_command("CLIENT KILL TYPE normal SKIPME yes"),
        "lose messages": lose_messages,
        "double messages": double_messages,
        "store goes wrong": lambda: rig.chaos(seed=chance.random(), rate=0.3, kinds=KINDS, stall_s=2.5),
        "store comes back": rig.chaos,
        "reconcile": rig.client.reconcile,
        "plan again": lambda: rig.client.queue.send("scoreline.plan", job_id=rig.job_id),
        "finalize early": lambda: rig.client.queue.send("scoreline.finalize", job_id=rig.job_id),
    }


def play(rig: Rig, chance: random.Random) -> list[str]:
    """Run one job through some faults, and return their names."""
    job = rig.submit(PARTS, max_attempts=50, job_id=f"soak-{chance.randrange(10**9)}")
    rig.job_id = job.job_id
    happened = []
    end = time.monotonic() + 120
    for _ in range(chance.randrange(1, 7)):
        time.sleep(chance.uniform(0, 2))
        if rig.client.status(job.job_id).ended:
            break
        name, fault = chance.choice(list(faults(rig, chance).items()))
        happened.append(name)
        fault()
    rig.chaos()
    while not rig.client.status(job.job_id).ended and time.monotonic() < end:
        if not rig.parents():  # a platform restarts a worker that has ended
            happened.append("the worker had ended")
            rig.start_worker(2, R2_TIMEOUT_SECONDS="2")
        time.sleep(0.2)
    rig.verify(rig.end(job, timeout_s=1))
    return happened


def main() -> int:
    """Run rounds until the time is over."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    end = time.monotonic() + 60 * minutes
    rounds = 0
    with Rig(Path(tempfile.mkdtemp(prefix="soak-", dir=".scoreline"))) as rig:
        rig.publish(seconds=0.15)
        rig.start_beat()
        rig.start_worker(2, R2_TIMEOUT_SECONDS="2")
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                happened = play(rig, random.Random(seed))
            except AssertionError as error:
                sys.stdout.write(f"seed {seed}: {error}\n")
                return 1
            sys.stdout.write(f"seed {seed}: ok in {time.monotonic() - started:.1f} s: {', '.join(happened)}\n")
            sys.stdout.flush()
            rounds, seed = rounds + 1, seed + 1
    sys.stdout.write(f"{rounds} passed, 0 failed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
