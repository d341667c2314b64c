"""The trial load: before a version is published, a fresh process loads its files as a worker would.

The bytes are sent to a new interpreter through a pipe. Nothing is written to disk or to the bucket before the files
have been loaded successfully. Code in the pickles runs only in the new process, which the module `confinement`
confines. The process reports the methods, the outputs and the memory use of the bundle.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from scoreline.storage import errors
from scoreline.storage.errors import InvalidRequest, ModelUnloadable, ScorelineError
from scoreline.storage.models import roles
from scoreline.storage.models.confinement import confine, environment, explain_denied
from scoreline.storage.models.manifest import Outputs, Role
from scoreline.storage.process_memory import release_memory
from scoreline.storage.typed_json import MALFORMED, build, decode_object

log = logging.getLogger(__name__)

_TIMEOUT_S = 600.0
_PIPE_PATIENCE_S = 5.0
_END_PATIENCE_S = 30.0
_MAX_REPORT_BYTES = 4 << 20
_MAX_ERROR_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class NewArtifact:
    """A joblib or pickle file for a new version."""

    role: Role
    name: str
    data: bytes
    source: str = ""
    """Path or URI of the file, or an empty string for a file that has neither."""


@dataclass(frozen=True, kw_only=True)
class TrialLoad:
    """The result of a trial load."""

    feature_names: tuple[str, ...] | None
    n_features: int | None
    outputs: Mapping[str, Outputs]
    libraries: Mapping[str, str]
    memory_bytes: int
    """Private memory, in bytes, that the loaded bundle uses in the process. It is at least the size of the files."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> TrialLoad:
        """Decode the report of the process: the result of `describe_bundle`, and ``memory_bytes``."""
        found = build(cls, raw)
        return replace(found, outputs={name: item.with_tuples() for name, item in found.outputs.items()})


def try_loading(name: str, files: Sequence[NewArtifact], *, allow_version_skew: bool = False) -> TrialLoad:
    """Load a bundle in a fresh process and return the result.

    Parameters
    ----------
    name : str
        Name of the bundle, for error messages.
    files : sequence of NewArtifact
        The files of the bundle.
    allow_version_skew : bool
        Whether files that were saved with another version of scikit-learn are accepted.

    Raises
    ------
    ModelUnloadable
        The bundle cannot be loaded, or loading it crashes the process or takes longer than ten minutes.
    InvalidRequest
        The bundle can be loaded but cannot score rows.
    """
    header = {
        "name": name,
        "allow_version_skew": allow_version_skew,
        "artifacts": [[item.role, item.name, len(item.data)] for item in files],
        "sources": {item.name: item.source for item in files if item.source},
    }
    return _decode(*_run(json.dumps(header).encode() + b"\n", files, name), name)


def _decode(code: int, out: bytes, err: bytes, name: str) -> TrialLoad:
    """Return the result of the fresh process (see `_run`), or raise the error that it reports.

    The result is not trusted, because code in a file may have written it.
    """
    try:
        report = decode_object(out)
    except MALFORMED:
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        raise ModelUnloadable(
            f"loading {name} ended the fresh process that tried it (exit code {code}): {' '.join(last)}"
        ) from None
    if reason := report.pop("unconfined", ""):
        log.warning("trial.unconfined", extra={"model": name, "can": str(reason)})
    if "error" in report:
        kind = getattr(errors, str(report["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, ScorelineError)):
            kind = ModelUnloadable
        raise kind(str(report.get("message")))
    try:
        return TrialLoad.from_raw(report)
    except MALFORMED as error:
        raise ModelUnloadable(f"the fresh process that tried {name} sent a malformed report: {error}") from error


def _run(header: bytes, files: Sequence[NewArtifact], name: str) -> tuple[int, bytes, bytes]:
    """Run the fresh process, and send it a header and files.

    Return its exit code, its report and the end of its standard error.
    """
    root = str(Path(__file__).resolve().parents[2])
    environ = environment(os.environ)
    child = subprocess.Popen(
        [sys.executable, "-m", "scoreline.storage.models.trial_load"],
        env=environ | {"PYTHONPATH": os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), root]))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    out, err = _Reader(child.stdout, first=_MAX_REPORT_BYTES), _Reader(child.stderr, last=_MAX_ERROR_BYTES)
    try:
        with contextlib.suppress(BrokenPipeError):  # the process ended early; its report or exit code says why
            child.stdin.write(header)
            for item in files:
                child.stdin.write(item.data)
            child.stdin.close()
        _wait(child)
    except subprocess.TimeoutExpired:
        raise ModelUnloadable(f"{name} did not load within {_TIMEOUT_S:.0f} s in a fresh process") from None
    finally:
        child.terminate()  # SIGTERM makes the process kill its descendants (see `confine`)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_PATIENCE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # kill its children, too, because they may keep the pipes open
        child.wait()
    return child.returncode, out.result(), err.result()


def _wait(child: subprocess.Popen[bytes]) -> None:
    child.wait(_TIMEOUT_S)


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


def try_loading_here(name: str, files: Sequence[NewArtifact], *, allow_version_skew: bool = False) -> TrialLoad:
    """Load a bundle in this process and return the result (see `try_loading`). Tests use this to save seconds.

    The result does not show whether another process can load the bundle. The memory use in the result is the size of
    the files.
    """
    blobs = [(item.role, item.name, item.data) for item in files]
    report = describe_bundle(*load_files(blobs, name, allow_version_skew=allow_version_skew))
    report["memory_bytes"] = sum(len(item.data) for item in files)
    return TrialLoad.from_raw(json.loads(json.dumps(report)))


def load_files(
    blobs: Sequence[tuple[Role, str, bytes]],
    bundle: str,
    *,
    allow_version_skew: bool,
    sources: Mapping[str, str] | None = None,
) -> tuple[dict[Role, Any], str | None]:
    """Unpickle the files of a bundle in this process.

    Parameters
    ----------
    blobs : sequence of (role, name, data)
        The files.
    bundle : str
        Name of the bundle, for error messages.
    allow_version_skew : bool
        Whether files that were saved with another version of scikit-learn are accepted.
    sources : mapping of str to str, optional
        Path or URI of each file, by artifact name, for error messages.

    Returns
    -------
    steps, saved_by : dict of role to dict of name to estimator, str or None
        The estimators, and the version of scikit-learn that saved them. The version is None if the installed version
        saved them.
    """
    from scoreline.storage.models.bundle import unpickle
    from scoreline.storage.models.thread_limits import limit_to_one_thread

    steps: dict[Role, Any] = {"model": {}, "preprocessor": {}, "label_encoder": {}}
    saved_by = None
    for role, name, data in blobs:
        file, artifact = io.BytesIO(data), f"{role} {name!r} of {bundle}"
        try:
            loaded, other_version = unpickle(file, artifact, allow_version_skew=allow_version_skew)
        except ModelUnloadable as error:
            if _is_pickle(data):
                raise
            source = (sources or {}).get(name, artifact)
            raise ModelUnloadable(f"{source} is not a joblib or pickle file: {_cause(error)}") from error
        if file.read(1):
            raise InvalidRequest(f"{artifact} has bytes after the end of its pickle: save it again")
        steps[role][name] = limit_to_one_thread(loaded)
        saved_by = saved_by or other_version
    return steps, saved_by


def _is_pickle(data: bytes) -> bool:
    """Return whether the data begin like a pickle of protocol 2 or newer. Python writes such pickles by default.

    Unpickling other data gives misleading errors, because their first characters are read as pickle opcodes. For
    example, a table that begins with ``id,x`` would raise an error about a missing module ``d,x``.
    """
    from joblib.numpy_pickle_utils import _validate_fileobject_and_memmap

    try:
        with _validate_fileobject_and_memmap(io.BytesIO(data), "", None) as (stream, _):
            return bool(stream.read(1) == pickle.PROTO)
    except Exception:  # noqa: BLE001  # the decompressor may raise anything
        return False


def _cause(error: BaseException) -> str:
    """Return the first line of the underlying error."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def describe_bundle(steps: dict[Role, Any], saved_by: str | None) -> dict[str, Any]:
    """Describe the input and the output of a loaded bundle with values that JSON supports.

    Parameters
    ----------
    steps, saved_by
        The result of `load_files`.

    Raises
    ------
    InvalidRequest
        The bundle cannot score rows.
    """
    from scoreline.storage.models.introspection import describe_features, describe_outputs, library_versions

    roles.check_objects(steps)
    encoder = next(iter(steps["label_encoder"].values()), None)
    outputs = {name: asdict(describe_outputs(model, encoder)) for name, model in steps["model"].items()}
    first = dict(list(steps["preprocessor"].items())[:1]) or steps["model"]
    names, count = describe_features(first)
    versions = library_versions() | ({"scikit-learn": saved_by} if saved_by else {})
    return {"feature_names": names, "n_features": count, "outputs": outputs, "libraries": versions}


def _private_bytes() -> int:
    if sys.platform == "linux":  # psutil cannot find this process from inside its namespace
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def main() -> None:
    """Read a bundle from standard input and write a report in JSON to standard output."""
    unconfined = confine()
    report_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that a pickle prints must not be mixed with the report
    stream = sys.stdin.buffer
    header = json.loads(stream.readline())
    name, skew = header["name"], header["allow_version_skew"]
    blobs = [(role, artifact, stream.read(size)) for role, artifact, size in header["artifacts"]]
    try:
        # The first load also imports modules. Therefore, only the second load measures the memory of the bundle.
        steps, saved_by = load_files(blobs, name, allow_version_skew=skew, sources=header["sources"])
        report = describe_bundle(steps, saved_by)
        del steps
        release_memory()
        before = _private_bytes()
        measured = load_files(blobs, name, allow_version_skew=skew)
        release_memory()
        report["memory_bytes"] = max(_private_bytes() - before, sum(len(data) for _, _, data in blobs))
        del measured
    except ScorelineError as error:
        report = {"error": type(error).__name__, "message": f"{error}{explain_denied(error)}"}
    except (ImportError, PermissionError) as error:  # packages may raise these errors while they load models
        report = {"error": "ModelUnloadable", "message": f"{errors.describe(error)}{explain_denied(error)}"}
    json.dump(report | ({"unconfined": unconfined} if unconfined else {}), report_file)
    report_file.flush()


if __name__ == "__main__":
    main()
