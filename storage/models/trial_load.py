"""The trial load: before a version is published, a fresh process loads its files as a worker would.

The bytes are sent to a new interpreter through a pipe (see `trial_process`). Code in the pickles runs only in the new
process, which the module `confinement` confines. The process reports the methods, the outputs and the memory use of the
bundle.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

from scoreline.storage import errors
from scoreline.storage.errors import ModelUnloadable, ScorelineError
from scoreline.storage.models.confinement import environment
from scoreline.storage.models.contents import Content, InMemory
from scoreline.storage.models.manifest import Outputs, Role
from scoreline.storage.models.trial_process import LENGTH_BYTES, describe_bundle, load_files
from scoreline.storage.typed_json import MALFORMED, build, decode_object

log = logging.getLogger(__name__)

_TIMEOUT_S = 600.0
_PIPE_PATIENCE_S = 5.0
_END_PATIENCE_S = 30.0
_LOOK_S = 1.0
_PIPE_BYTES = 1 << 20
_PIECES_AHEAD = 4
"""Number of pieces that wait for the process. Every second one is only a length."""
_MAX_REPORT_BYTES = 4 << 20
_MAX_ERROR_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class NewArtifact:
    """A joblib or pickle file for a new version."""

    role: Role
    name: str
    data: bytes | Content = field(repr=False)
    """The bytes of the file, or an object that passes them on in pieces."""
    source: str = ""
    """Path or URI of the file, or an empty string if it was not read from one."""
    sha256: str | None = None
    """SHA-256 that the file must have; None if any file is accepted."""

    @property
    def content(self) -> Content:
        """The bytes of the file."""
        return InMemory(self.data) if isinstance(self.data, bytes) else self.data


@dataclass(frozen=True, kw_only=True)
class TrialLoad:
    """The result of a trial load."""

    feature_names: tuple[str, ...] | None
    n_features: int | None
    outputs: Mapping[str, Outputs]
    libraries: Mapping[str, str]
    memory_bytes: int
    """Private memory, in bytes, that the loaded bundle uses in the process. It is at least the size of the files."""
    estimators: Mapping[str, str] = field(default_factory=dict)
    """The class of each artifact, by its name."""
    notes: tuple[str, ...] = ()
    """What is unusual about the bundle, although it is no fault."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> TrialLoad:
        """Decode the report of the process: the result of `describe_bundle`, and ``memory_bytes``."""
        found = build(cls, raw)
        return replace(found, outputs={name: item.with_tuples() for name, item in found.outputs.items()})


class Trial(Protocol):
    """A trial load under way, which receives the files of a bundle one after another."""

    def send(self, data: bytes) -> None:
        """Pass on the next bytes of the current file (errors as in `result`)."""
        ...

    def end_file(self) -> None:
        """End the current file (errors as in `result`)."""
        ...

    def result(self) -> TrialLoad:
        """Wait until the bundle is loaded, and return the result.

        Raises
        ------
        ModelUnloadable
            The bundle cannot be loaded, or loading it crashes the process or takes longer than ten minutes.
        InvalidRequest
            The bundle can be loaded but cannot score rows.
        """
        ...

    def close(self) -> None:
        """End the process, if it has not ended."""
        ...


def open_trial(name: str, files: Sequence[NewArtifact], *, allow_version_skew: bool = False) -> Trial:
    """Start a fresh process that loads a bundle.

    Parameters
    ----------
    name : str
        Name of the bundle, for error messages.
    files : sequence of NewArtifact
        The files of the bundle. The caller sends their bytes in this order.
    allow_version_skew : bool
        Whether files that were saved with another version of scikit-learn are accepted.
    """
    return TrialProcess(name, files, allow_version_skew=allow_version_skew)


class TrialProcess:
    """A trial load in a fresh process (see `open_trial` and `Trial`).

    A thread writes to the process, so that the caller can hash and upload while the process unpickles.
    """

    def __init__(self, name: str, files: Sequence[NewArtifact], *, allow_version_skew: bool) -> None:
        self._name = name
        # The folder that contains the package, because the folder `tasks` within it would hide that of an application
        file = sys.modules[__name__.partition(".")[0]].__file__
        assert file is not None
        root = str(Path(file).parents[1])
        self._proof = secrets.token_hex(16)
        environ = environment(os.environ)
        self._child = child = subprocess.Popen(
            [sys.executable, "-m", "scoreline.storage.models.trial_process"],
            env=environ | {"PYTHONPATH": os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), root]))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        self._out = _Reader(child.stdout, first=_MAX_REPORT_BYTES)
        self._err = _Reader(child.stderr, last=_MAX_ERROR_BYTES)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_PIECES_AHEAD)
        self._refused = threading.Event()
        self._closed = False
        self._writer = threading.Thread(target=self._write, daemon=True, name="trial-write")
        self._writer.start()
        header = {
            "name": name,
            "allow_version_skew": allow_version_skew,
            "artifacts": [[item.role, item.name] for item in files],
            "sources": {item.name: item.source for item in files if item.source},
        }
        self._put(json.dumps(header).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Pass on the next bytes of the current file (see `Trial.send`)."""
        if data:
            self._put(len(data).to_bytes(LENGTH_BYTES, "big"))
            self._put(data)

    def end_file(self) -> None:
        """End the current file (see `Trial.end_file`)."""
        self._put(bytes(LENGTH_BYTES))

    def result(self) -> TrialLoad:
        """Return the result of the process (see `Trial.result`)."""
        self._put(f"{self._proof}\n".encode())
        self._put(None)
        return self._end()

    def close(self) -> None:
        """End the process and all processes that it has started."""
        if self._closed:
            return
        self._closed, child = True, self._child
        child.terminate()  # SIGTERM makes the process kill its descendants (see `confine`)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_PATIENCE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # kill its children, too, because they may keep the pipes open
        child.wait()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._writer.join(_PIPE_PATIENCE_S)

    def _put(self, data: bytes | None) -> None:
        """Hand over bytes to the thread that writes, or None for the end of all files."""
        until = time.monotonic() + _TIMEOUT_S
        while not self._refused.is_set():
            try:
                self._waiting.put(data, timeout=_LOOK_S)
            except queue.Full:
                if time.monotonic() > until:
                    raise self._too_slow() from None
            else:
                return
        if data is not None:
            self._end()

    def _write(self) -> None:
        pipe = self._child.stdin
        assert pipe is not None
        with contextlib.suppress(OSError, AttributeError):  # a small pipe only costs time
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            with pipe:
                while (data := self._waiting.get()) is not None:
                    pipe.write(data)
                    pipe.flush()
        except OSError:  # the process ended early; its report or exit code says why
            self._refused.set()

    def _end(self) -> TrialLoad:
        try:
            _wait(self._child)
        except subprocess.TimeoutExpired:
            raise self._too_slow() from None
        finally:
            self.close()
        found, proof = _decode(self._child.returncode, self._out.result(), self._err.result(), self._name)
        if self._refused.is_set() or proof != self._proof:  # code in a file may have written the report
            raise ModelUnloadable(f"the fresh process that tried {self._name} ended before it had read all of it")
        return found

    def _too_slow(self) -> ModelUnloadable:
        return ModelUnloadable(f"{self._name} did not load within {_TIMEOUT_S:.0f} s in a fresh process")


def _wait(child: subprocess.Popen[bytes]) -> None:
    child.wait(_TIMEOUT_S)


def _decode(code: int, out: bytes, err: bytes, name: str) -> tuple[TrialLoad, object]:
    """Return the result of the fresh process and the proof that it has read everything, or raise the reported error.

    The result is not trusted, because code in a file may have written it.
    """
    try:
        report = decode_object(out)
    except MALFORMED:
        last = " ".join(err.decode(errors="replace").strip().splitlines()[-1:])
        if code == -signal.SIGKILL and not last:
            last = "it was killed, which happens if the machine has too little memory"
        raise ModelUnloadable(
            f"loading {name} ended the fresh process that tried it (exit code {code}): {last}"
        ) from None
    if reason := report.pop("unconfined", ""):
        log.warning("trial.unconfined", extra={"model": name, "can": str(reason)})
    if "error" in report:
        kind = getattr(errors, str(report["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, ScorelineError)):
            kind = ModelUnloadable
        raise kind(str(report.get("message")))
    try:
        return TrialLoad.from_raw(report), report.get("proof")
    except MALFORMED as error:
        raise ModelUnloadable(f"the fresh process that tried {name} sent a malformed report: {error}") from error


class _Reader(threading.Thread):
    """Reads a pipe to its end, and stores only the first or the last bytes."""

    def __init__(self, pipe: IO[bytes], *, first: int = 0, last: int = 0) -> None:
        super().__init__(daemon=True, name="trial-read")
        self._pipe, self._first, self._last = pipe, first, last
        self._data = bytearray()
        self.start()

    def run(self) -> None:
        """Read until the pipe is closed."""
        with self._pipe:
            while piece := os.read(self._pipe.fileno(), 1 << 16):
                if len(self._data) < self._first:
                    self._data += piece
                elif self._last:
                    self._data += piece
                    del self._data[: -self._last]

    def result(self) -> bytes:
        """Return the stored bytes.

        If the pipe stays open after the process has ended, stop waiting after a short time.
        """
        self.join(_PIPE_PATIENCE_S)
        return bytes(self._data)


class TrialHere:
    """A trial load in this process (see `open_trial` and `Trial`). Tests use this to save seconds.

    The result does not show whether another process can load the bundle. The memory use in the result is the size of
    the files.
    """

    def __init__(self, name: str, files: Sequence[NewArtifact], *, allow_version_skew: bool = False) -> None:
        self._name, self._files, self._skew = name, files, allow_version_skew
        self._streams = [io.BytesIO()]

    def send(self, data: bytes) -> None:
        """Pass on the next bytes of the current file (see `Trial.send`)."""
        self._streams[-1].write(data)

    def end_file(self) -> None:
        """End the current file (see `Trial.end_file`)."""
        self._streams[-1].seek(0)
        self._streams.append(io.BytesIO())

    def result(self) -> TrialLoad:
        """Load the files and return the result (see `Trial.result`)."""
        sizes = [stream.getbuffer().nbytes for stream in self._streams]
        files = ((item.role, item.name, file) for item, file in zip(self._files, self._streams, strict=False))
        report = describe_bundle(*load_files(files, self._name, allow_version_skew=self._skew))
        report["memory_bytes"] = sum(sizes)
        return TrialLoad.from_raw(json.loads(json.dumps(report)))

    def close(self) -> None:
        """Do nothing, because there is no process."""
