"""Reads the lists of mutants and checks that each still fits the code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_REQUIRED = ("file", "old", "new", "tests", "why")


class StaleMutants(Exception):
    """Some mutants no longer fit the code. The message lists each of these mutants with its fault."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A deliberate fault in the code."""

    name: str
    subject: str
    """The name of its list."""
    file: str
    """The file to change, relative to the checkout."""
    old: str
    """The text to replace, which occurs exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """The tests that should fail, as arguments of pytest."""
    why: str
    """What the fault would do to a user."""
    survives: str = ""
    """Why no test can detect the fault; empty if a test must detect it."""

    def apply(self, root: Path) -> str:
        """Change the file below `root`, and return what it contained before."""
        path = root / self.file
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace(self.old, self.new), encoding="utf-8")
        return before


def read_catalog(folder: Path = Path(__file__).parent) -> list[Mutant]:
    """Return the mutants of all lists, in the order of the lists' names.

    Raises
    ------
    StaleMutants
        A table lacks a key, has an unknown key, or repeats a name.
    """
    found: dict[str, Mutant] = {}
    faults = []
    for path in sorted(folder.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            missing = [key for key in _REQUIRED if not table.get(key) and not (key == "new" and "new" in table)]
            unknown = sorted(table.keys() - {*_REQUIRED, "survives"})
            if missing or unknown or name in found:
                wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
                faults.append(f"{path.name}: {name} {wrong if missing or unknown else 'is there twice'}")
                continue
            found[name] = Mutant(name=name, subject=path.stem, **table | {"tests": tuple(table["tests"])})
    if faults:
        raise StaleMutants("\n".join(faults))
    return list(found.values())


def check_fit(mutants: Sequence[Mutant], root: Path = ROOT) -> None:
    """Check that each mutant changes the code below `root`, and that its tests exist.

    Raises
    ------
    StaleMutants
        An old text does not occur exactly once, a change breaks the syntax, or a test does not exist.
    """
    faults = [f"{mutant.name}: {fault}" for mutant in mutants for fault in _faults(mutant, root)]
    if faults:
        raise StaleMutants("\n".join(faults))


def _faults(mutant: Mutant, root: Path) -> list[str]:
    faults = []
    path = root / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (count := text.count(mutant.old)) != 1:
        faults.append(f"its old text occurs {count} times in {mutant.file}, not once")
    elif mutant.new == mutant.old:
        faults.append("its new text is its old one")
    elif path.suffix == ".py":
        try:
            compile(text.replace(mutant.old, mutant.new), mutant.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            faults.append(f"its new text is not Python: {error}")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        path = root / file
        if not path.is_file():
            faults.append(f"there is no {file}")
        elif name and not re.search(rf"^def {re.escape(name.partition('[')[0])}\(", path.read_text(), re.MULTILINE):
            faults.append(f"there is no {name} in {file}")
    return faults
