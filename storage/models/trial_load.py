"""Is a bundle loadable where nothing of its maker's process is there? Asked before a version exists.

The bytes go to a fresh interpreter through a pipe: none of them touches the disk or the bucket before they are known
to load, and code of the pickles runs in that process alone. It tells what the bundle can do, and measures the memory
that it takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoreline.storage import errors
from scoreline.storage.errors import InvalidRequest, ModelUnloadable, ScorelineError
from scoreline.storage.models.manifest import Outputs, Role

_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class LooseArtifact:
    """One joblib file that is to become part of a version."""

    role: Role
    name: str
    data: bytes
    source: str = ""
    """File or object that it is from, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a fresh process found out."""

    feature_names: tuple[str, ...] | None
    n_features: int | None
    outputs: dict[str, Outputs]
    libraries: dict[str, str]
    memory_bytes: int
    """Private memory that the loaded bundle takes, and at least the size of its artifacts."""


def prove(what: str, loose: Sequence[LooseArtifact], *, allow_version_skew: bool = False) -> Proof:
    """Load a bundle in a fresh process.

    Raises
    ------
    ModelUnloadable
        It cannot be loaded there, or its loading ends the process or takes longer than ten minutes.
    InvalidRequest
        It loads and cannot score.
    """
    root = str(Path(__file__).resolve().parents[2])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))}
    child = subprocess.Popen(
        [sys.executable, "-m", "scoreline.storage.models.trial_load"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    header = {
        "what": what,
        "allow_version_skew": allow_version_skew,
        "artifacts": [[item.role, item.name, len(item.data)] for item in loose],
        "sources": {item.name: item.source for item in loose if item.source},
    }
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended early: its answer or its exit code says why
            child.stdin.write(json.dumps(header).encode() + b"\n")
            for item in loose:
                child.stdin.write(item.data)
            child.stdin.flush()
        out, err = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ModelUnloadable(f"{what} did not load within {_TIMEOUT_S:.0f} s in a fresh process") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    try:
        answer = json.loads(out)
    except ValueError:
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        raise ModelUnloadable(
            f"{what} ended a fresh process that loaded it (exit code {child.returncode}): {' '.join(last)}"
        ) from None
    if "error" in answer:
        raise getattr(errors, answer["error"], ModelUnloadable)(answer["message"])
    return _proof(answer)


def _proof(answer: Mapping[str, Any]) -> Proof:
    """Read what `_describe` found, with the memory that the bundle takes."""
    return Proof(
        feature_names=None if answer["feature_names"] is None else tuple(answer["feature_names"]),
        n_features=answer["n_features"],
        outputs={name: Outputs.from_raw(item) for name, item in answer["outputs"].items()},
        libraries=answer["libraries"],
        memory_bytes=answer["memory_bytes"],
    )


def _load(
    blobs: Sequence[tuple[Role, str, bytes]], what: str, allow_skew: bool, sources: Mapping[str, str] | None = None
) -> tuple[dict[Role, Any], str | None]:
    from scoreline.storage.models.bundle import one_thread, unpickle

    steps: dict[Role, Any] = {"model": {}, "preprocessor": {}, "label_encoder": {}}
    saved_by = None
    for role, name, data in blobs:
        file, artifact = io.BytesIO(data), f"{role} {name!r} of {what}"
        try:
            loaded, other = unpickle(file, artifact, allow_version_skew=allow_skew)
        except ModelUnloadable as error:
            if _is_pickle(data):
                raise
            source = (sources or {}).get(name, artifact)
            raise ModelUnloadable(f"{source} is no joblib or pickle file: {_why(error)}") from error
        if file.read(1):
            raise InvalidRequest(f"{artifact} has bytes after the end of its pickle")
        steps[role][name] = one_thread(loaded)
        saved_by = saved_by or other
    return steps, saved_by


def _is_pickle(data: bytes) -> bool:
    """Whether bytes begin as every pickle does that Python 3 writes unless it is told otherwise.

    Of anything else an unpickler says whatever the first letters mean to it: of a table that begins with ``id,x``, that
    there is no module ``d,x``.
    """
    from joblib.numpy_pickle_utils import _validate_fileobject_and_memmap

    try:
        with _validate_fileobject_and_memmap(io.BytesIO(data), "", None) as (stream, _):
            return bool(stream.read(1) == pickle.PROTO)
    except Exception:  # noqa: BLE001  # what decompresses it may raise anything
        return False


def _why(error: BaseException) -> str:
    """Return the first line of what was raised."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _describe(steps: dict[Role, Any], saved_by: str | None) -> dict[str, Any]:
    from scoreline.storage.models.describe import describe_features, describe_outputs, libraries

    encoder = next(iter(steps["label_encoder"].values()), None)
    for name, step in steps["preprocessor"].items():
        if not callable(getattr(step, "transform", None)):
            raise InvalidRequest(f"preprocessor {name!r}, a {type(step).__name__}, has no transform()")
    if encoder is not None and not callable(getattr(encoder, "inverse_transform", None)):
        raise InvalidRequest(f"the label encoder, a {type(encoder).__name__}, has no inverse_transform()")
    outputs = {name: asdict(describe_outputs(model, encoder)) for name, model in steps["model"].items()}
    first = dict(list(steps["preprocessor"].items())[:1]) or steps["model"]
    names, count = describe_features(first)
    versions = libraries() | ({"scikit-learn": saved_by} if saved_by else {})
    return {"feature_names": names, "n_features": count, "outputs": outputs, "libraries": versions}


def release_memory() -> None:
    """Give memory that nothing refers to back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def _private_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def main() -> None:
    """Read a bundle from standard input, answer in JSON on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a pickle prints is no answer
    stream = sys.stdin.buffer
    header = json.loads(stream.readline())
    blobs = [(role, name, stream.read(size)) for role, name, size in header["artifacts"]]
    try:
        steps, saved_by = _load(  # imports what it needs
            blobs, header["what"], header["allow_version_skew"], header["sources"]
        )
        answer = _describe(steps, saved_by)
        del steps
        release_memory()
        before = _private_bytes()
        again = _load(blobs, header["what"], header["allow_version_skew"])
        release_memory()
        answer["memory_bytes"] = max(_private_bytes() - before, sum(len(data) for _, _, data in blobs))
        del again
    except ScorelineError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    json.dump(answer, answers)
    answers.flush()


if __name__ == "__main__":
    main()
