"""Finds installed packages that the requirement files alone would not install."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_LOOKED_UP = {"polars", "sphinx"}
"""scikit-learn and scipy look these modules up in ``sys.modules``, and would use None as if it were the module."""
ROOT = Path(__file__).parents[2]


@functools.cache
def not_installed_by(*files: str) -> tuple[str, ...]:
    """Return the modules that are installed here, but that `files` alone would not install.

    A module that is set to None in ``sys.modules`` cannot be imported.
    """
    installed = required_by(*files) | {"scoreline"}
    return tuple(
        sorted(
            module
            for module, distributions in _distributions().items()
            if installed.isdisjoint(map(canonicalize_name, distributions)) and module not in _LOOKED_UP
        )
    )


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def pins(file: str) -> list[Requirement]:
    """Return the requirements of a requirements file."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def required_by(*files: str) -> set[str]:
    """Return the names of the distributions that `files` install, including their dependencies."""
    found: dict[str, set[str]] = {}  # requested extras by distribution
    waiting = [requirement for file in files for requirement in pins(file)]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if name in found and asked.extras <= found[name]:
            continue
        found.setdefault(name, set()).update(asked.extras)
        try:
            texts = requires(name) or []
        except PackageNotFoundError:  # the package is for another platform, or for an extra that is not installed
            continue
        for needed in map(Requirement, texts):
            extras = found[name] | {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return set(found)
