"""Explains errors of models that were saved with other versions of their libraries than the installed versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import platform
import re
import sys
from collections.abc import Mapping
from types import TracebackType

import sklearn

from scoreline.storage.errors import ModelUnloadable
from scoreline.storage.models.skew_advice import SKEW_SETTING, advise

log = logging.getLogger(__name__)

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "_loss": "scikit-learn"}
"""Names of packages for pip, by module name, where the two names differ. In scikit-learn 1.1 to 1.6, a module called
itself ``_loss``."""


def check_version(ref: str, saved_with: Mapping[str, str], allow_skew: bool) -> str | None:
    """Check that a model was saved with the installed version of scikit-learn, before anything is unpickled.

    Returns
    -------
    warning : str or None
        A warning if the versions differ and `allow_skew` is set, or None if the versions are the same.

    Raises
    ------
    ModelUnloadable
        The versions differ. The message names both versions and says what to do.
    """
    saved_by = saved_with.get("scikit-learn")
    if saved_by in (None, sklearn.__version__):
        return None
    skew = describe_skew(ref, saved_by)
    if not allow_skew:
        raise refuse_skew(ref, saved_by)
    log.warning("models.version_skew", extra={"warning": skew})
    return skew


def refuse_skew(what: str, saved_by: str) -> ModelUnloadable:
    """Return the error for a model that another version of scikit-learn saved, if settings do not allow such models."""
    return ModelUnloadable(
        f"{describe_skew(what, saved_by)}: {advise(saved_by, sklearn.__version__)}, or {SKEW_SETTING}"
    )


def describe_skew(what: str, saved_by: str) -> str:
    """Return a sentence that names both versions of scikit-learn."""
    return f"{what} was saved by scikit-learn {saved_by}, but {sklearn.__version__} is installed"


TOO_LITTLE_MEMORY = "there is too little memory for it here: free some, or use a machine with more"


def explain(what: str, error: BaseException, saved_by: str | None) -> ModelUnloadable:
    """Return an error that says why a model cannot be loaded and what to do.

    Parameters
    ----------
    what : str
        Description of the model, for the message.
    error : Exception
        The error of the unpickler.
    saved_by : str or None
        The version of scikit-learn that the stream names, if any.
    """
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    if saved_by is not None and saved_by != sklearn.__version__:
        return ModelUnloadable(
            f"{describe_skew(what, saved_by)}, which cannot load it ({said}): {advise(saved_by, sklearn.__version__)}"
        )
    if isinstance(error, MemoryError):
        return ModelUnloadable(f"{what} cannot be loaded: {TOO_LITTLE_MEMORY}")
    module, name = _missing(error)
    if module in ("__main__", "__mp_main__"):
        return ModelUnloadable(
            f"{what} cannot be loaded: it uses {name!r}, which was defined in a notebook or a script: define it in "
            "a module that workers can import, and save the model again"
        )
    package = module.partition(".")[0] if module else _raising_package(error.__traceback__)
    version = _installed(package)
    if module and version is None and not _exists(package):
        return ModelUnloadable(f"{what} needs the module {module!r}: install it where workers run")
    if re.match(r"code\(\) |code expected ", str(error)):
        return ModelUnloadable(
            f"{what} cannot be loaded: another version of Python has saved its functions, and this is "
            f"{platform.python_version()}: save the model again with this version ({said})"
        )
    if version is not None:
        lacks = f", which has no {'.'.join(filter(None, (module, name)))!r}" if module else ""
        maybe = "was" if module else "may have been"
        return ModelUnloadable(
            f"{what} cannot be loaded: it {maybe} saved with another version of {_distribution(package)} than "
            f"{version}{lacks}: install that version where workers run, or save the model again ({said})"
        )
    if module:
        return ModelUnloadable(
            f"{what} cannot be loaded: the module {module!r} here has no {name!r}: install the version of it with "
            "which the model was saved, or save the model again"
        )
    return ModelUnloadable(f"{what} cannot be loaded: {said}")


def _missing(error: BaseException) -> tuple[str, str]:
    """Return the name of a missing module, or the names of a module and its missing attribute.

    Return empty names for other errors.
    """
    if isinstance(error, ModuleNotFoundError):
        return error.name or "", ""
    for pattern in (r"attribute '([^']+)' on <module '([^']+)'", r"attribute '([^']+)' from '([^']+)'"):
        if found := re.search(pattern, str(error)):
            main = re.search(re.escape(repr(sys.modules["__main__"])), str(error))
            return "__main__" if main else found[2], found[1]
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", str(error)):
        return found[1], found[2]
    return "", ""


def _raising_package(trace: TracebackType | None) -> str:
    """Return the package whose code raised an error. Packages that only unpickle, such as joblib, do not count."""
    package = ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        package = package if module in ("joblib", "pickle", "scoreline", "cloudpickle") else module
        trace = trace.tb_next
    return package


def _exists(package: str) -> bool:
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _distribution(package: str) -> str:
    return _DISTRIBUTIONS.get(package, package.replace("_", "-"))


def _installed(package: str) -> str | None:
    """Return the installed version of a package; None if no installed distribution contains it."""
    try:
        return importlib.metadata.version(_distribution(package)) if package else None
    except importlib.metadata.PackageNotFoundError:
        return None
