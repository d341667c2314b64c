"""The processes of a soak test, and the faults that affect them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import psutil

from scoreline.worker.dev.stack import ROOT, Guard
from tests.support.rig import HASTE, Rig

STORE_FAULTS = ["500", "503", "429", "cut", "lost", "stall"]
QUICK = {"R2_TIMEOUT_SECONDS": "2"}
NEIGHBOUR = "neighbour"
"""The bucket of the other deployment."""
_BEYOND_LEASE_S = (4.0, 7.0)
_BLIND = "raise ImportError('this worker has no estimators')\n"


class Fleet:
    """Workers of several kinds, each started at most once at a time.

    Kinds: ``ours``, two processes; ``second``, one more worker; ``neighbour``, of another deployment; ``older``, of an
    earlier revision; ``blind``, which can load no model.

    Parameters
    ----------
    older : str
        The revision of the older worker; empty if there is none.
    """

    def __init__(self, rig: Rig, folder: Path, older: str) -> None:
        self.rig = rig
        self._guards: dict[str, Guard] = {}
        self._wake: dict[int, float] = {}
        self._folders: dict[str, Path] = {}
        if older:
            self._folders["older"] = _checkout(folder / "older", older)
        self._folders["blind"] = _without_estimators(folder / "blind")

    @property
    def kinds(self) -> list[str]:
        """The kinds of workers that can be started."""
        return ["ours", "second", NEIGHBOUR, *self._folders]

    def start(self, kind: str) -> None:
        """Start a worker, unless a worker of the same kind is running."""
        guard = self._guards.get(kind)
        if guard is not None and guard.poll() is None:
            return
        extra = HASTE | QUICK | ({"R2_BUCKET": NEIGHBOUR} if kind == NEIGHBOUR else {})
        number = 1 + sum(path.name.startswith(kind) for path in self.rig.stack.folder.glob("*worker*.log"))
        name = f"{kind}-worker{number}@soak"
        command = [sys.executable, "-m", "celery", "-A", "scoreline", "worker", "-P", "prefork", "-n", name]
        command += ["-c", "2" if kind == "ours" else "1", "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        if kind in self._folders:  # Python looks for modules in the working directory first
            command = ["sh", "-c", 'cd "$0" && exec "$@"', str(self._folders[kind]), *command]
        log = self.rig.stack.folder / f"{name}.log"
        self._guards[kind] = guard = self.rig.stack.run(command, log, self.rig.stack.environ | extra)
        self.rig.stack.wait(name, lambda: f"{name} ready" in log.read_text(errors="replace"), guard, log)

    def end(self, *kinds: str) -> None:
        """End workers."""
        for kind in kinds:
            if (guard := self._guards.pop(kind, None)) is not None:
                self.rig.stack.stop(guard)

    def restart_ended(self) -> bool:
        """Restart workers whose main process has ended, as a platform does. Return whether any had ended."""
        ended = [kind for kind, guard in self._guards.items() if guard.poll() is not None]
        for kind in ended:
            self.start(kind)
        return bool(ended)

    def parents(self) -> list[psutil.Process]:
        """Return the main processes of all workers."""
        found = []
        for guard in self._guards.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(guard.pid).children()
        return found

    def children(self) -> list[psutil.Process]:
        """Return the pool processes of all workers."""
        found = []
        for parent in self.parents():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += parent.children()
        return found

    def suspend(self, processes: list[psutil.Process], seconds: float) -> None:
        """Suspend processes with SIGSTOP. `wake` resumes them after some seconds."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
                self._wake[process.pid] = time.monotonic() + seconds

    def wake(self, *, all_: bool = False) -> None:
        """Resume all suspended processes, or only those whose pause is over."""
        for pid, until in list(self._wake.items()):
            if all_ or time.monotonic() > until:
                del self._wake[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def signal(self, processes: list[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def faults_of(fleet: Fleet, chance: random.Random, job_ids: Callable[[], list[str]]) -> dict[str, Callable[[], object]]:
    """Return the faults by name. Some faults affect one of the jobs `job_ids`."""
    rig = fleet.rig

    def some(processes: list[psutil.Process]) -> list[psutil.Process]:
        return [chance.choice(processes)] if processes else []

    def family() -> list[psutil.Process]:
        found = some(fleet.parents())
        for parent in list(found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += parent.children()
        return found

    def lose_messages() -> None:
        for message in rig.messages():
            for queue in rig.queues:
                rig.redis.lrem(queue, 1, message.decode())

    def double_messages() -> None:
        for message in rig.messages():
            rig.redis.lpush(rig.queue, message)

    def send(step: str) -> None:
        for job_id in job_ids()[:1]:
            rig.client.queue.send(f"scoreline.{step}", job_id=job_id)

    beyond = chance.uniform(*_BEYOND_LEASE_S)
    found: dict[str, Callable[[], object]] = {
        "kill a child": lambda: fleet.signal(some(fleet.children()), signal.SIGKILL),
        "kill a worker": lambda: fleet.signal(family(), signal.SIGKILL),
        "stop a worker": lambda: fleet.signal(some(fleet.parents()), signal.SIGTERM),
        "suspend a child": lambda: fleet.suspend(some(fleet.children()), beyond),
        "suspend a worker": lambda: fleet.suspend(family(), beyond),
        "empty Redis": rig.redis.flushall,
        "restart Redis": rig.stack.restart_valkey,
        "cut all connections": lambda: rig.redis.execute_command("CLIENT KILL TYPE normal SKIPME yes"),
        "lose messages": lose_messages,
        "double messages": double_messages,
        "store goes wrong": lambda: rig.chaos(seed=chance.random(), rate=0.3, kinds=STORE_FAULTS, stall_s=2.5),
        "store comes back": rig.chaos,
        "reconcile": rig.client.reconcile,
        "plan again": lambda: send("plan"),
        "finalize early": lambda: send("finalize"),
        "another worker": lambda: fleet.start("second"),
        "a worker that loads nothing": lambda: fleet.start("blind"),
    }
    if "older" in fleet.kinds:
        found["an older worker"] = lambda: fleet.start("older")
    return found


def older_revision() -> str:
    """Return the newest tag, or an older revision if there is no tag; empty if the history is missing."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("describe", "--tags", "--abbrev=0") or git("rev-list", "-n", "1", "--skip=100", "HEAD")


def _checkout(folder: Path, revision: str) -> Path:
    """Extract Scoreline at a revision, but keep the current estimators of the tests, because models refer to them."""
    command = ["git", "archive", revision, "scoreline", "storage", "tasks", "worker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _without_estimators(folder: Path) -> Path:
    """Make a folder in which the estimators of the tests cannot be imported."""
    (folder / "tests" / "support").mkdir(parents=True)
    for package in (folder / "tests", folder / "tests" / "support"):
        (package / "__init__.py").write_text("")
    (folder / "tests" / "support" / "estimators.py").write_text(_BLIND)
    return folder
