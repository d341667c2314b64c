"""Converts a model that another version of scikit-learn saved, and verifies that the results stay the same.

The model is loaded with the installed version, and missing attributes are filled in. To verify the result, a sample is
scored twice: with the installed version, and with the old version in an environment that uv creates. The model is saved
again only if the results are equal.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import UserList
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from scoreline.storage.errors import InvalidRequest, ModelUnloadable, PackageMissing
from scoreline.storage.models import reference_scores
from scoreline.storage.models.bundle import dump, unpickle
from scoreline.storage.models.confinement import environment
from scoreline.storage.models.skew_advice import numpy_bound, supported_pythons
from scoreline.storage.models.thread_limits import estimators_within
from scoreline.storage.models.unpickler import find_version

_TIMEOUT_S = 900.0
_NEEDED_BY_UV = r"UV_.*|XDG_.*|SSL_CERT_.*|(?i:(https?|all|no)_proxy)|PIP_(INDEX_URL|CERT)"
"""Pattern of the environment variables that uv needs to download packages, in addition to the variables of every
process that unpickles a file."""
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
"""Maximum relative and absolute difference between two numbers that count as equal. Other versions of NumPy round sums
differently in the last bits."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model."""

    data: bytes
    """The converted model, as joblib saves it with the installed version of scikit-learn."""
    saved_by: str
    """The version of scikit-learn that saved the original model."""
    methods: tuple[str, ...]
    """The methods whose results are equal before and after the conversion."""
    rows: int


def convert(data: bytes, what: str, sample: Mapping[str, Sequence[Any]], extra: Sequence[str] = ()) -> Conversion:
    """Convert a model to the installed version of scikit-learn.

    Parameters
    ----------
    data : bytes
        The file of the model. Unpickling the file runs its code.
    what : str
        Description of the model, for error messages.
    sample : mapping of str to list
        Columns of the rows that verify the model, by name. Values are numbers, texts, booleans or None.
    extra : sequence of str
        Requirements of further packages that the model needs, such as ``lightgbm==4.3.0``.

    Raises
    ------
    InvalidRequest
        The file does not name the version that saved the model, or names the installed version.
    PackageMissing
        uv is not installed.
    ModelUnloadable
        The model cannot be converted; the message says why.
    """
    saved_by = find_version(data)
    if saved_by is None:
        raise InvalidRequest(f"{what} does not say which version of scikit-learn saved it: fit the model again")
    if saved_by == sklearn.__version__:
        raise InvalidRequest(f"{what} was saved by scikit-learn {saved_by}, which is installed: publish it as it is")
    expected = score_with_old_version(data, what, saved_by, sample, extra)
    with _old_names(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, _ = unpickle(io.BytesIO(data), what, allow_version_skew=True)
        except ModelUnloadable as error:
            raise ModelUnloadable(
                f"{what} cannot be converted from scikit-learn {saved_by} to {sklearn.__version__}, which lacks what "
                f"it is made of ({error.__cause__}): fit the model again"
            ) from error
        _fill_in(model)
        converted = dump(model)
        model, _ = unpickle(io.BytesIO(converted), what)
        found = reference_scores.score(model, {name: list(values) for name, values in sample.items()})
    methods = [method for method, result in expected.items() if "values" in result]
    if not methods:
        reasons = "; ".join(f"{method}: {result['error']}" for method, result in expected.items())
        raise InvalidRequest(
            f"scikit-learn {saved_by} itself cannot score the sample with {what}: give rows as the model was fitted on "
            f"({reasons or 'it has no method that scores rows'})"
        )
    for method in methods:
        if difference := _compare(expected[method], found.get(method, {"error": "it has no such method any more"})):
            raise ModelUnloadable(
                f"{what} cannot be converted from scikit-learn {saved_by} to {sklearn.__version__}, because {method} "
                f"{difference}: fit the model again"
            )
    rows = len(next(iter(sample.values()), ()))
    return Conversion(data=converted, saved_by=saved_by, methods=tuple(methods), rows=rows)


def score_with_old_version(
    data: bytes, what: str, version: str, sample: Mapping[str, Sequence[Any]], extra: Sequence[str]
) -> dict[str, Any]:
    """Run `reference_scores.score` with another version of scikit-learn, in an environment that uv creates."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise PackageMissing("models convert needs uv, which makes an environment for the old version: pip install uv")
    pythons = supported_pythons(version)
    if pythons is None:
        raise InvalidRequest(f"{what} was saved by scikit-learn {version}, unknown here: fit the model again")
    needed = [f"scikit-learn=={version}", numpy_bound(version), "pandas<3", *extra]
    with tempfile.TemporaryDirectory() as folder:
        model, rows, results = (Path(folder, name) for name in ("model.joblib", "rows.json", "results.json"))
        model.write_bytes(data)
        rows.write_text(json.dumps({name: list(values) for name, values in sample.items()}))
        command = [uv, "run", "--no-project", "--isolated", "--python", _python(*pythons)]
        command += [part for requirement in needed for part in ("--with", requirement)]
        try:
            done = subprocess.run(
                [*command, "python", "-W", "ignore", reference_scores.__file__, model, rows, results],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                cwd=folder,
                env=environment(os.environ, also=_NEEDED_BY_UV),
            )
        except subprocess.TimeoutExpired:
            raise ModelUnloadable(f"scikit-learn {version} took longer than {_TIMEOUT_S:.0f} s") from None
        if done.returncode or not results.exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelUnloadable(
                f"{what} cannot be scored with scikit-learn {version} in an environment of its own: {said}. Name other "
                "packages that it needs with --with, or fit the model again"
            )
        loaded: dict[str, Any] = json.loads(results.read_text())
        return loaded


def _python(oldest: str, newest: str) -> str:
    """Return the Python version for uv: the running version, if the old scikit-learn supports the running version."""
    running = (sys.version_info.major, sys.version_info.minor)
    bounds = [tuple(map(int, version.split("."))) for version in (oldest, newest)]
    if bounds[0] <= running <= bounds[1]:
        return str(getattr(sys, "_base_executable", sys.executable))
    return newest


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return a description of how two results of a method differ; empty if they are equal."""
    if "error" in found:
        return f"fails now: {found['error']}"
    one, other = (item if isinstance(item, list) else [item] for item in (expected["values"], found["values"]))
    try:
        before, after = np.asarray(one), np.asarray(other)
    except ValueError:  # one array for each target, with different numbers of columns
        return "" if one == other else "gives other results now"
    if before.shape != after.shape:
        return f"gives results of shape {after.shape} rather than {before.shape} now"
    if before.dtype.kind in "biuf" and after.dtype.kind in "biuf":
        equal = np.isclose(before, after, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
    else:
        equal = before == after
    return "" if equal.all() else f"gives other results now for {int((~equal).sum())} of {equal.size} values"


def _fill_in(model: Any) -> None:
    """Set parameters that newer versions have added to the class of an estimator.

    These parameters get their default values.
    """
    for estimator in list(estimators_within(model)):
        if not type(estimator).__module__.startswith("sklearn."):
            continue
        for name, parameter in inspect.signature(type(estimator).__init__).parameters.items():
            if parameter.default is not parameter.empty and not hasattr(estimator, name):
                setattr(estimator, name, parameter.default)
        if isinstance(chosen := getattr(estimator, "transformers_", None), list):
            estimator.transformers_ = [
                (name, step, list(columns) if isinstance(columns, UserList) else columns)
                for name, step, columns in chosen
            ]
        if type(estimator).__name__ == "SimpleImputer" and hasattr(estimator, "statistics_"):
            estimator._fill_dtype = getattr(estimator, "_fill_dtype", estimator.statistics_.dtype)


class _Columns(UserList[Any]):
    """A replacement for the class in which scikit-learn 1.5 and 1.6 store a list of columns."""


@contextmanager
def _old_names() -> Iterator[None]:
    """While the block runs, define names that pickles of earlier versions of scikit-learn refer to."""
    from sklearn.compose import _column_transformer as transformer

    own = hasattr(transformer, "_RemainderColsList")
    if not own:
        transformer._RemainderColsList = _Columns
    losses = importlib.import_module("sklearn._loss._loss")
    sys.modules.setdefault("_loss", losses)
    for name in [name for name in dir(losses) if name.startswith("Cy")]:
        if not hasattr(losses, f"__pyx_unpickle_{name}"):
            setattr(losses, f"__pyx_unpickle_{name}", _new_loss)
    try:
        yield
    finally:
        if not own:
            del transformer._RemainderColsList
        if sys.modules["_loss"] is losses:
            del sys.modules["_loss"]
        for name in [name for name in dir(losses) if getattr(losses, name) is _new_loss]:
            delattr(losses, name)


def _new_loss(kind: type, *_: Any) -> Any:
    """Replace the function with which Cython unpickles a loss without parameters."""
    return kind()
