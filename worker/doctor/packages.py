"""Checks that the installed packages have the versions that this release was tested with.

A checkout pins one version of each package in its requirement files. A wheel contains the version ranges of
pyproject.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scoreline.storage.models.compiled.extension import is_available
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context

_ROOT = Path(__file__).resolve().parents[2]
_FILES = ("requirements.txt", "ml-requirements.txt")
_ML = re.compile(r"""extra == ["']ml["']""")


def packages(_: Context) -> Iterator[Finding]:
    """Compare the installed packages with the requirement files, or else with the requirements of the wheel."""
    base, ml = required()
    installed = {name: version for name in base | ml if (version := installed_version(name)) is not None}
    to_submit, to_work = _install_commands()
    if missing := _names(base.keys() - installed.keys()):
        yield error(f"not installed: {missing}", to_submit)
    if missing := _names(ml.keys() - installed.keys()):
        yield warning(
            f"not installed: {missing}; this process cannot load models or check their versions",
            f"{to_work}, unless this process only submits jobs",
        )
    other = [
        f"{name} {installed[name]} is installed, {_expected(versions)}"
        for name, versions in sorted((base | ml).items())
        if name in installed and not versions.contains(installed[name], prereleases=True)
    ]
    if other:
        yield warning("; ".join(other), to_work)
    if "scikit-learn" in installed and not is_available():
        yield warning(
            "the extensions for models were not built: forests, boosting, texts and scalers are left to scikit-learn "
            "alone, which takes 3 to 20 times as long",
            "install a C compiler, and then run `make setup` or install the package again, unless this process only "
            "submits jobs",
        )
    if not other and len(installed) == len(base | ml):
        yield ok(f"all {len(installed)} packages have the versions that this release requires")


def required(folder: Path = _ROOT) -> tuple[dict[str, SpecifierSet], dict[str, SpecifierSet]]:
    """Return the required versions by package: first for every process, and then for workers only.

    The versions are read from the requirement files in `folder`, or else from the installed distribution.
    """
    if _has_files(folder):
        base, ml = (_read((folder / name).read_text().splitlines()) for name in _FILES)
        return base, ml
    lines = metadata.requires("scoreline") or []
    return _read(line for line in lines if "extra ==" not in line), _read(line for line in lines if _ML.search(line))


def installed_version(name: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _install_commands() -> tuple[str, str]:
    """Return the command that installs the packages of an application, and the command for a worker."""
    if not _has_files(_ROOT):
        return "pip install scoreline", "pip install 'scoreline[ml]'"
    return f"pip install -r {_FILES[0]}", f"pip install {' '.join(f'-r {name}' for name in _FILES)}"


def _has_files(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _expected(versions: SpecifierSet) -> str:
    pins = [version.version for version in versions if version.operator == "=="]
    return f"{pins[0]} is pinned" if pins else f"{versions} is required"


def _read(lines: Iterable[str]) -> dict[str, SpecifierSet]:
    requirements = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    return {requirement.name: requirement.specifier for requirement in requirements}


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
