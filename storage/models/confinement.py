"""Confines the process of a trial load, because unpickling a file runs code that its author chose.

The process gets a small environment without keys, and limits for its resources. On Linux, it also gets its own
namespaces: it has no network, and can neither signal other processes nor read their environment or memory. A supervisor
process kills all processes that remain at the end. The confined process can still read and write the files of its user,
within the limits. If the user is root, the process loses access to the files of other users.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from scoreline.storage.container_memory import available_bytes

_KEPT = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|VIRTUAL_ENV|LD_LIBRARY_PATH|LD_PRELOAD|DYLD_.*"
    r"|PYTHON(PATH|HOME|HASHSEED|UTF8|IOENCODING|NOUSERSITE|USERBASE|MALLOC|WARNINGS)|MALLOC_.*"
    r"|(OMP|OPENBLAS|MKL|NUMEXPR|BLIS)_.*|(JOBLIB|SKLEARN|NUMBA|CUDA)_.*"
)
"""Pattern of the environment variables that say where Python and its packages are, and how they use the processor and
memory. None of these variables is a secret."""
_MAX_FILE_BYTES = 1 << 30
"""Size in bytes of the largest file that the process may write. Some libraries need a temporary file for unpickling."""
_LEAST_MEMORY_BYTES = 1 << 30
_MAX_CPU_S = 600
"""CPU time limit, in seconds per processor of the machine, for the process and for each of its children."""
_DEATH_SIGNAL, _DUMPABLE, _SUBREAPER, _NEW_PRIVILEGES = 1, 4, 36, 38
"""PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER and PR_SET_NO_NEW_PRIVS of prctl(2)."""
_NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
"""CLONE_NEWUSER, CLONE_NEWPID and CLONE_NEWNET of unshare(2)."""


def environment(environ: Mapping[str, str], also: str = "") -> dict[str, str]:
    """Return the environment variables for a process that unpickles untrusted files.

    Parameters
    ----------
    also : str
        Regular expression for the names of additional variables to include.

    >>> environment({"PATH": "/bin", "LC_ALL": "C", "MODEL_SIGNING_KEY": "hush", "R2_SECRET_ACCESS_KEY": "hush"})
    {'PATH': '/bin', 'LC_ALL': 'C', 'PYTHONDONTWRITEBYTECODE': '1'}
    """
    kept = {name: value for name, value in environ.items() if _KEPT.fullmatch(name) or re.fullmatch(also, name)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def confine() -> str:
    """Confine this process permanently. Call this before anything is loaded, and while the process has a single thread.

    On Linux, the call returns in a child process, and the original process supervises the child until the child ends.
    SIGTERM to the original process kills this process, the child, and all processes that the child has started.

    Returns
    -------
    str
        Description of the actions that the platform could not forbid; empty if it could forbid all.
    """
    _limit_resources()
    if sys.platform != "linux":
        return f"use the network and look at other processes, because {sys.platform} has no namespaces"
    _prctl(_NEW_PRIVILEGES, 1)
    missing = _leave_namespaces()
    _continue_in_child(namespace=not missing)
    return missing


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _leave_namespaces() -> str:
    """Move this process to a new user namespace and network namespace, and its children to a new PID namespace."""
    user, group = os.getuid(), os.getgid()
    try:
        os.unshare(_NEW_USERS | _NEW_NETWORK | _NEW_PROCESSES)
    except OSError as error:
        return f"use the network and read the environment of other processes: no namespace ({error.strerror})"
    with contextlib.suppress(OSError):  # without these files, the process only lacks a user name
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return ""


def _continue_in_child(*, namespace: bool) -> None:
    """Fork, and return in the descendant.

    The original process waits for the descendant, and ends with the same exit code or signal.

    When the first process of a namespace ends, the kernel kills all others. Without a namespace, the original process
    becomes the parent of all orphaned descendants, and kills them. A descendant could only prevent this by killing the
    original process.
    """
    _prctl(_SUBREAPER, 1)
    if child := os.fork():
        code = _supervise(child)
        _kill_children()
        _end(128 - code if namespace and code > 128 else code)
    if namespace and (child := os.fork()):  # the first process of a namespace cannot kill itself by a signal
        code = _supervise(child)
        os._exit(code if code >= 0 else 128 - code)
    _prctl(_DEATH_SIGNAL, int(signal.SIGKILL))


def _supervise(child: int) -> int:
    """Wait until a child ends. Return its exit code, or the negative number of the signal that ended the child."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    _prctl(_DEATH_SIGNAL, int(signal.SIGTERM))
    _prctl(_DUMPABLE, 0)  # so that the child cannot change the memory of this process
    os.close(0)  # so that a writer to the pipe notices the end of the child
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end(code: int) -> NoReturn:
    """End this process with an exit code; if the code is negative, end this process by the signal with this number."""
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL cannot have a handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _kill_children() -> None:
    """Kill all descendants of this process."""
    import psutil

    while children := psutil.Process().children(recursive=True):
        for process in children:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def explain_denied(error: BaseException) -> str:
    """Return a sentence to add to an error if unreadable files have caused it; otherwise an empty string.

    Python skips unreadable folders, so an import fails as if the module did not exist.
    """
    causes = (error, error.__cause__)
    denied = [str(cause.filename) for cause in causes if isinstance(cause, PermissionError) and cause.filename]
    if not denied and any(isinstance(cause, ImportError) for cause in causes):
        denied = [folder for folder in sys.path if _is_denied(folder)]
    if not denied:
        return ""
    return (
        f". The process that loads models on trial may not read {', '.join(denied)}, because it has no rights to "
        "private files of other users: publish as the user who may read it, or make it readable for all (chmod -R a+rX)"
    )


def _is_denied(folder: str) -> bool:
    try:
        os.scandir(folder).close()
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _limit_resources() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: _MAX_CPU_S * (os.cpu_count() or 1),
        resource.RLIMIT_FSIZE: _MAX_FILE_BYTES,
    }
    if sys.platform == "linux":  # only Linux applies RLIMIT_DATA to mapped memory
        limits[resource.RLIMIT_DATA] = max(_LEAST_MEMORY_BYTES, available_bytes())
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        least = limit if most == resource.RLIM_INFINITY else min(limit, most)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (least, least))
