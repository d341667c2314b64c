"""Finds the lines of keys in a TOML text, for messages about faults."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PART = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*""")


class TomlLines:
    r"""The lines of tables and keys in a TOML text.

    >>> lines = TomlLines('[columns.age]\nmin = 0\n\n[rows]\nmin = 5 # few')
    >>> lines.of("columns", "age", "min"), lines.of("rows", "min"), lines.of("columns", "age", "max")
    (2, 5, 1)
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if stripped.startswith("["):
                path, rest = _path(stripped.lstrip("["))
                if path and rest.startswith("]"):
                    table = path
                    self._note(path, number)
                continue
            path, rest = _path(stripped)
            if path and rest.startswith("="):
                self._note((*table, *path), number)

    def of(self, *path: str) -> int:
        """Return the line of a key, or of the nearest table around it; 1 if the text has neither."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def _note(self, path: Sequence[str], number: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(tuple(path[:length]), number)


def _path(text: str) -> tuple[tuple[str, ...], str]:
    """Return the dotted key at the beginning of a text, and the rest of the text."""
    parts: list[str] = []
    while found := _PART.match(text):
        part = found[1]
        parts.append(part[1:-1] if part[0] in "\"'" else part)
        text = text[found.end() :]
        if not text.startswith("."):
            break
        text = text[1:]
    return tuple(parts), text
