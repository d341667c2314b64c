"""Runs workers, beat and the command line as forks of a process that has already imported their modules.

Importing scikit-learn, pandas and pyarrow takes a worker two seconds of CPU time, and importing its own packages takes
a command half a second. The tests start some sixty workers and a hundred commands. A fork already has these packages
imported, and only sets its arguments, environment, working directory and output. The workers of the fixture `own` are
started as a user starts them.

``python -m tests.support.warm FD``: FD is a socket from which the process reads requests. The process ends when the
other end of the socket is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import botocore.session

from scoreline.worker import allocator
from scoreline.worker.dev import guard
from scoreline.worker.dev.stack import Guard, Stack
from tests.support import quick_writes
from tests.support.waiting import HANG_S

_LONGEST_MESSAGE = 1 << 20
_FORKS = sys.platform == "linux"
"""Whether packages outlast a fork; on macOS, some do not."""
_OF_THE_START = ("PYTHONPATH", "PYTHONHASHSEED")
"""Variables that an interpreter reads when it starts, before it forks."""
_CELERY = [sys.executable, "-m", "celery"]
_SCORELINE = str(Path(sys.executable).with_name("scoreline"))
_IMPORTED = (
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "kombu.transport.redis",
    "scoreline.tasks.schedules.scheduler",
    "scoreline.tasks.steps.finalize",
    "scoreline.tasks.steps.planner",
    "scoreline.tasks.steps.score_part",
    "scoreline.worker.cli.main",
)
_READS_ENVIRONMENT = "scoreline.worker.celery"
"""The module of a worker that is not imported before the fork, because it reads the environment."""


class WarmStack(Stack):
    """A stack whose Celery processes are forks."""

    def start_guard(self, command: list[str], lifeline: int, log: Path | None, environ: Mapping[str, str]) -> Guard:
        usual = self.environ_of_commands({})
        is_special = any(environ.get(name) != usual.get(name) for name in _OF_THE_START)
        if not _FORKS or command[:3] != _CELERY or log is None or is_special:
            return super().start_guard(command, lifeline, log, environ)
        with log.open("ab") as output:
            return _parent().fork(command[2:], environ, lifeline, output.fileno(), output.fileno())


def run_scoreline(
    *arguments: str, environ: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line with this environment in a folder, and wait for its end."""
    return run_script(_SCORELINE, *arguments, environ=environ, folder=folder)


def run_script(
    script: str, *arguments: str, environ: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the Python script at an absolute path, and wait for its end."""
    command = [script, *arguments]
    if not _FORKS:
        return subprocess.run(
            [sys.executable, *command],
            env=environ,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
    lifeline, held = os.pipe()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            done = _parent().fork(command, environ, lifeline, out.fileno(), err.fileno(), folder=folder)
            os.close(lifeline)
            code = done.wait(HANG_S)
        finally:
            os.close(held)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


class _Parent:
    """A process whose forks become guards. The process ends when the process that started it ends."""

    def __init__(self) -> None:
        self.environ = Stack.environ_of_commands({})
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, env=self.environ, pass_fds=[theirs.fileno()], start_new_session=True
            )
        atexit.register(self._end)

    def fork(self, arguments: list[str], environ: Mapping[str, str], *files: int, folder: Path | None = None) -> Forked:
        """Run a command. `files` are the lifeline of the guard, and the files for output and errors of the command."""
        reading, writing = os.pipe()
        message = json.dumps({"arguments": arguments, "environ": dict(environ), "folder": str(folder or Path.cwd())})
        with self._lock:
            socket.send_fds(self._socket, [message.encode()], [*files, writing])
            pid = int(self._socket.recv(_LONGEST_MESSAGE))
        os.close(writing)
        return Forked(pid, reading)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _parent() -> _Parent:
    return _Parent()


class Forked:
    """A guard that is not a child of this process. It writes its exit code to a pipe."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self._report = report
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(f"guard {self.pid}", timeout or 0)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self._code is None and select.select([self._report], [], [], timeout)[0]:
            self._code = int(os.read(self._report, 10) or -signal.SIGKILL)
            os.close(self._report)
        return self._code


def main() -> None:
    """Import the modules that commands need, and fork for each request until the other end of the socket is closed."""
    own = os.environ["PYTHONPATH"].split(os.pathsep)
    installed = [entry for entry in sys.path[1:] if entry not in own]
    allocator.use_one_heap(os.environ)  # a worker does this before it imports pyarrow
    for name in _IMPORTED:
        importlib.import_module(name)
    assert _READS_ENVIRONMENT not in sys.modules
    assert threading.active_count() == 1, "a fork would lose the other threads"
    read_s3_once()
    gc.collect()
    gc.freeze()  # so that garbage collection in a fork does not touch, and thereby copy, the imported modules
    signal.signal(signal.SIGCHLD, _bury)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            message, files, _, _ = socket.recv_fds(requests, _LONGEST_MESSAGE, 4)
            if not message:
                return
            # Python warns of forking with threads, but Arrow's allocator restarts its thread after a fork
            with warnings.catch_warnings(action="ignore"):
                pid = os.fork()
            if pid == 0:
                break
            for file in files:
                os.close(file)
            requests.send(str(pid).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _guard(**json.loads(message), installed=installed, files=files)


def read_s3_once() -> None:
    """Let all clients in this process share boto3's description of S3; reading it takes 0.1 s of CPU time."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    botocore.session.Session().get_component("data_loader").load_service_model("s3", "service-2")


def _bury(number: int, frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _guard(arguments: list[str], environ: dict[str, str], folder: str, installed: list[str], files: list[int]) -> None:
    """Act as the guard of a command: set up the state of a new process, and run the command in a fork."""
    lifeline, out, err, report = files
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    for file in {nothing, out, err}:
        os.close(file)
    os.chdir(folder)
    is_script = os.path.isabs(arguments[0])
    own = filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [str(Path(arguments[0]).parent) if is_script else folder, *own, *installed]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # so that the fork imports the module from the new `sys.path`
    os.environ.clear()
    os.environ.update(environ)
    quick_writes.follow(environ)
    guard.ignore_signals()
    if (pid := os.fork()) != 0:
        code = guard.watch(cast("subprocess.Popen[bytes]", _Child(pid)), lifeline)
        with contextlib.suppress(BrokenPipeError):  # the tests have ended
            os.write(report, str(code).encode())
        os._exit(code)
    os.close(lifeline)
    os.close(report)
    os.setsid()
    guard.default_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    if is_script:
        _run_and_exit_at_once(arguments[0])
    else:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _run_and_exit_at_once(script: str) -> None:
    """Run a script, and exit without the interpreter's cleanup, which would copy the shared memory of all modules."""
    code: object = 1
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 - as the interpreter itself does
        traceback.print_exc()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


class _Child:
    """A fork of this process, with the methods of a ``Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def _ended(self, options: int) -> int | None:
        if self._code is None and (found := os.waitpid(self.pid, options))[0]:
            self._code = os.waitstatus_to_exitcode(found[1])
        return self._code


if __name__ == "__main__":
    main()
