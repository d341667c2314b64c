"""Runs one turn of a contender in a process of its own, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import work
from scoreline.worker.dev.stack import ROOT

PEERS = work.DATA / "venv" / "bin" / "python"
OURS = ("limit", "scoreline", "scoreline_s3", "script", "futures")
THEIRS = ("daskdistributed", "raydata", "spark")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TURN_S = 900.0
_END_S = 20.0
_LONGEST_PLACE = 40
"""Maximum length of the folder for Ray's sockets: a socket path may have 107 bytes, and Ray adds some 65 to the
folder."""


def turn(name: str, folder: Path, model: str) -> dict[str, Any]:
    """Run a contender once. Return the values that it prints, and ``whole``, the seconds of start, rehearsal and work.

    Raises `RuntimeError` if the contender fails, or takes more than `TURN_S` seconds.
    """
    python = str(PEERS) if name in THEIRS else sys.executable
    environ = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    try:
        with _place_of_sockets() as place:
            command = [python, "-m", f"benchmarks.contenders.{name}", str(folder), model]
            out, said, code = run(command, environ | {"RAY_TMPDIR": place})
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{model}: it took more than {TURN_S:g} s") from None
    whole = time.perf_counter() - begun
    result = next((line for line in reversed(out.splitlines()) if line.startswith("{")), "")
    if code or not result:
        print(said[-4000:], file=sys.stderr)
        raise RuntimeError(f"{model}: {(said.splitlines() or [f'exit status {code}'])[-1][:300]}")
    return json.loads(result) | {"whole": whole}


@contextlib.contextmanager
def _place_of_sockets() -> Iterator[str]:
    """Yield a folder for the sockets of Ray: in the checkout, unless this makes their paths too long."""
    place = work.DATA / "ray"
    if len(str(place)) <= _LONGEST_PLACE:
        yield str(place)
        return
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield short


def run(command: list[str], environ: Mapping[str, str], limit_s: float = TURN_S) -> tuple[str, str, int]:
    """Run a command in a session of its own, and always end all processes of the session.

    Return standard output, standard error and the exit status. Raises `subprocess.TimeoutExpired`.
    """
    with subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate(timeout=limit_s)
        except BaseException:
            process.send_signal(signal.SIGINT)  # then the contender itself ends its processes in other sessions
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return out, said, process.returncode
