"""Says when a model was saved by other versions of its libraries than the installed ones, and what can be done then."""

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

log = logging.getLogger(__name__)

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "_loss": "scikit-learn"}
"""Names under which packages are installed, by module, where they differ. ``_loss`` is a module of scikit-learn 1.1 to
1.6 that named itself so."""
_PYTHONS = {
    (0, 22): ("3.5", "3.8"),
    (0, 23): ("3.6", "3.8"),
    (0, 24): ("3.6", "3.9"),
    (1, 0): ("3.7", "3.9"),
    (1, 1): ("3.8", "3.10"),
    (1, 2): ("3.8", "3.11"),
    (1, 3): ("3.8", "3.11"),
    (1, 4): ("3.9", "3.12"),
    (1, 5): ("3.9", "3.12"),
    (1, 6): ("3.9", "3.13"),
    (1, 7): ("3.10", "3.13"),
    (1, 8): ("3.11", "3.14"),
    (1, 9): ("3.11", "3.14"),
}
"""The oldest and the newest Python for which every patch release of a scikit-learn has wheels on PyPI."""
SKEW_SETTING = "set ML_ALLOW_VERSION_SKEW=true to load it at your own risk"


def check_version(ref: str, saved_with: Mapping[str, str], allow_skew: bool) -> str | None:
    """Check that a model was saved with the installed version of scikit-learn, before anything is unpickled.

    Returns
    -------
    warning : str or None
        A warning if the versions differ and `allow_skew` is set, or None if they are the same.

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
        raise ModelUnloadable(f"{skew}: {advise(saved_by)}, or {SKEW_SETTING}")
    log.warning("models.version_skew", extra={"warning": skew})
    return skew


def describe_skew(what: str, saved_by: str) -> str:
    """Return a sentence that names both versions of scikit-learn."""
    return f"{what} was saved by scikit-learn {saved_by}, but {sklearn.__version__} is installed"


def supported_pythons(version: str) -> tuple[str, str] | None:
    """Return the oldest and the newest Python on which a version of scikit-learn runs; None if that is not known.

    >>> supported_pythons("1.5.2"), supported_pythons("9.9")
    (('3.9', '3.12'), None)
    """
    return _PYTHONS.get(_minor(version))


def advise(saved_by: str) -> str:
    """Return what can be done with a model that another version of scikit-learn has saved.

    A version can be installed beside Scoreline only if it is a patch release of the same version, because a release of
    Scoreline supports one version of scikit-learn.
    """
    installed = sklearn.__version__
    if _minor(saved_by) == _minor(installed):
        return f"install scikit-learn=={saved_by} where workers run, or fit the model again with {installed}"
    pythons = supported_pythons(saved_by)
    where = f" ({saved_by} runs on Python {pythons[0]} to {pythons[1]})" if pythons else ""
    return f"fit the model again with scikit-learn {installed}{where}"


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
        return ModelUnloadable(f"{describe_skew(what, saved_by)}, which cannot load it ({said}): {advise(saved_by)}")
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
    """Return the module that is missing, or the module and its attribute that is missing; empty for any other error."""
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
    """Return the package whose code raised an error, not counting those that unpickle."""
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
    """Return the installed version of a package; None if it is not installed, or not from a distribution."""
    try:
        return importlib.metadata.version(_distribution(package)) if package else None
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (-1, -1)
