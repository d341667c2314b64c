"""Whether what is installed is what the requirements pin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.setup import Setup

_ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;#]+)")
_FILES = ("requirements.txt", "ml-requirements.txt")


def packages(_: Setup) -> Iterator[Finding]:
    """Compare both requirement files with what is installed."""
    base, ml = pins()
    installed = {name: version for name in base | ml if (version := installed_version(name)) is not None}
    if missing := _names(base.keys() - installed.keys()):
        yield error(f"not installed: {missing}", f"pip install -r {_FILES[0]}")
    if missing := _names(ml.keys() - installed.keys()):
        yield warning(
            f"not installed: {missing}; models are neither loaded nor compared with what is here",
            f"pip install -r {_FILES[1]}, unless this process only enqueues",
        )
    other = [
        f"{name} is {installed[name]}, pinned is {pin}"
        for name, pin in sorted((base | ml).items())
        if installed.get(name, pin) != pin
    ]
    if other:
        yield warning("; ".join(other), f"pip install {' '.join(f'-r {name}' for name in _FILES)}")
    if not other and len(installed) == len(base | ml):
        yield ok(f"all {len(installed)} are installed as they are pinned")


def pins(folder: Path = _ROOT) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is pinned for every process and for workers besides, by name: from the files, else as installed."""
    if all((folder / name).is_file() for name in _FILES):
        base, ml = (_read((folder / name).read_text().splitlines()) for name in _FILES)
        return base, ml
    lines = metadata.requires("scoreline") or []
    return _read(line for line in lines if "extra ==" not in line), _read(line for line in lines if "extra ==" in line)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _read(lines: Iterable[str]) -> dict[str, str]:
    return {found["name"]: found["version"] for line in lines if (found := _PIN.match(line))}


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
