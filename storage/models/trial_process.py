"""The process of a trial load: it reads the files of a bundle from standard input, and loads them as a worker would.

The bytes of a large bundle are unpickled while they arrive, so that the process needs little memory besides the model.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from scoreline.storage import errors
from scoreline.storage.errors import InvalidRequest, ModelUnloadable, ScorelineError
from scoreline.storage.models import roles
from scoreline.storage.models.confinement import confine, explain_denied
from scoreline.storage.models.manifest import Role
from scoreline.storage.process_memory import release_memory

LENGTH_BYTES = 4
"""Each piece of a file is preceded by its length in this many bytes. The length 0 ends a file."""
_KEPT_BYTES = 16 << 20
"""Bundles of at most this many bytes are kept in memory, and are loaded twice, because then the measurement of their
memory does not contain the modules that the first load imports."""
_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 1 << 20


def load_files(
    files: Iterable[tuple[Role, str, io.BufferedIOBase]],
    bundle: str,
    *,
    allow_version_skew: bool,
    sources: Mapping[str, str] | None = None,
) -> tuple[dict[Role, Any], str | None]:
    """Unpickle the files of a bundle in this process.

    Parameters
    ----------
    files : iterable of (role, name, stream)
        The files. Each stream is read to its end before the next one is read.
    bundle : str
        Name of the bundle, for error messages.
    allow_version_skew : bool
        Whether files that were saved with another version of scikit-learn are accepted.
    sources : mapping of str to str, optional
        Path or URI of each file, by artifact name, for error messages.

    Returns
    -------
    steps, saved_by : dict of role to dict of name to estimator, str or None
        The estimators, and the version of scikit-learn that saved them. The version is None if it is the installed one.
    """
    from scoreline.storage.models.bundle import unpickle
    from scoreline.storage.models.thread_limits import limit_to_one_thread

    steps: dict[Role, Any] = {"model": {}, "preprocessor": {}, "label_encoder": {}}
    saved_by = None
    for role, name, file in files:
        artifact = f"{role} {name!r} of {bundle}"
        head = file.peek(_HEAD_BYTES)[:_HEAD_BYTES] if isinstance(file, io.BufferedReader) else b""
        try:
            loaded, other_version = unpickle(file, artifact, allow_version_skew=allow_version_skew)
        except ModelUnloadable as error:
            if _is_pickle(head):
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
    from scoreline.storage.models import fitting
    from scoreline.storage.models.encoded_labels import check_encoder
    from scoreline.storage.models.introspection import describe_features, describe_outputs, library_versions

    fitting.check_objects(steps)
    roles.check_objects(steps)
    fitting.check_together(steps)
    encoder = next(iter(steps["label_encoder"].values()), None)
    outputs = {name: asdict(describe_outputs(model, encoder)) for name, model in steps["model"].items()}
    first = dict(list(steps["preprocessor"].items())[:1]) or steps["model"]
    names, count = describe_features(first)
    versions = library_versions() | ({"scikit-learn": saved_by} if saved_by else {})
    return {
        "feature_names": names,
        "n_features": count,
        "outputs": outputs,
        "libraries": versions,
        "estimators": {name: type(step).__name__ for members in steps.values() for name, step in members.items()},
        "notes": check_encoder(steps, {name: output["classes"] for name, output in outputs.items()}),
    }


class _Incoming(io.RawIOBase):
    """One of the files that arrive on standard input, one after another."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__()
        self._pipe = pipe
        self._kept = io.BytesIO()
        self._left = 0
        self._ended = False
        self.size = 0
        """Number of bytes that have arrived so far."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        if count := self._kept.readinto(buffer):
            return count
        self._kept = io.BytesIO()
        return self._receive(buffer)

    def keep(self, most: int) -> int:
        """Read up to a number of bytes in advance, and return their number."""
        kept, buffer = bytearray(), memoryview(bytearray(_BUFFER_BYTES))
        while len(kept) < most and (count := self._receive(buffer[: most - len(kept)])):
            kept += buffer[:count]
        self._kept = io.BytesIO(kept)
        return len(kept)

    def kept(self) -> bytes:
        """Return the bytes that were read in advance."""
        return self._kept.getvalue()

    def _receive(self, buffer: memoryview) -> int:
        if not self._left and not self._ended:
            self._left = int.from_bytes(self._read(LENGTH_BYTES), "big")
            self._ended = not self._left
        if self._ended:
            return 0
        count = self._pipe.readinto1(buffer[: self._left])  # type: ignore[attr-defined]  # a BufferedReader
        if not count:
            raise EOFError("the publishing process ended before it had sent everything")
        self._left -= count
        self.size += count
        return int(count)

    def _read(self, size: int) -> bytes:
        data = self._pipe.read(size)
        if len(data) < size:
            raise EOFError("the publishing process ended before it had sent everything")
        return data


def _private_bytes() -> int:
    if sys.platform == "linux":  # psutil cannot find this process from inside its namespace
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def _try_bundle(pipe: IO[bytes], header: Mapping[str, Any]) -> dict[str, Any]:
    """Load the files, and return a description of the bundle with the memory that it needs."""
    name, skew, sources = header["name"], header["allow_version_skew"], header["sources"]
    artifacts: Sequence[tuple[Role, str]] = header["artifacts"]
    files = [_Incoming(pipe) for _ in artifacts]
    room = _KEPT_BYTES
    for file in files:
        room -= file.keep(room)
        if not room:
            break
    blobs = [file.kept() for file in files] if room else []
    streams = [io.BytesIO(blob) for blob in blobs] if room else files

    def load(streams: Iterable[io.RawIOBase | io.BytesIO]) -> tuple[dict[Role, Any], str | None]:
        buffered = (
            (role, artifact, io.BufferedReader(stream, _BUFFER_BYTES))
            for (role, artifact), stream in zip(artifacts, streams, strict=True)
        )
        return load_files(buffered, name, allow_version_skew=skew, sources=sources)

    loaded = load(streams)
    report = describe_bundle(*loaded)
    if room:
        del loaded
        release_memory()
        before = _private_bytes()
        loaded = load([io.BytesIO(blob) for blob in blobs])
        release_memory()
        used = _private_bytes() - before
    else:  # what is measured is the memory that becomes free, because the modules that were imported stay
        release_memory()
        before = _private_bytes()
        del loaded
        release_memory()
        used = before - _private_bytes()
    report["memory_bytes"] = max(used, sum(file.size for file in files))
    return report


def main() -> None:
    """Read a bundle from standard input and write a report in JSON to standard output."""
    unconfined = confine()
    report_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that a pickle prints must not be mixed with the report
    try:
        report = _try_bundle(sys.stdin.buffer, json.loads(sys.stdin.buffer.readline()))
        report["proof"] = sys.stdin.buffer.readline().decode().strip()  # that everything before it was read
    except ScorelineError as error:
        report = {"error": type(error).__name__, "message": f"{error}{explain_denied(error)}"}
    except (ImportError, PermissionError) as error:  # packages may raise these errors while they load models
        report = {"error": "ModelUnloadable", "message": f"{errors.describe(error)}{explain_denied(error)}"}
    json.dump(report | ({"unconfined": unconfined} if unconfined else {}), report_file)
    report_file.flush()


if __name__ == "__main__":
    main()
