"""The turns of contenders, which a file keeps after each turn, so that a run that is stopped can be continued."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, described, hardware, load
from benchmarks.measure import write_whole

Took = dict[str, dict[str, list[dict[str, Any]]]]
"""Turns of each round, by model and contender."""


class Rounds:
    """Turns by model and contender. They are kept in memory, or also in a file.

    Figures of an earlier run in the file are kept if that run had the same settings, commit and machine. Otherwise the
    first turn replaces them.

    Parameters
    ----------
    file : Path, optional
        A file of JSON. Nothing is written before the first turn has ended.
    settings : mapping, optional
        Values that turns must have in common in order to be compared, for example the number of rows.
    """

    def __init__(self, file: Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self._file = file
        same = {**(settings or {}), "commit": commit(), "hardware": hardware()}
        kept = json.loads(file.read_text()) if file is not None and file.exists() else {}
        empty: dict[str, Any] = {name: {} for name in ("asked", "seconds", "left out", "largest difference")}
        self.figures: dict[str, Any] = {**same, "machine": described(), "continued": [], **empty}
        self._continues = ""
        if same.items() <= kept.items():
            self.figures = kept
            self._continues = f"{time.strftime('%Y-%m-%d')}, load average before {load()}"

    @property
    def took(self) -> Took:
        """The turns that have ended."""
        found: Took = self.figures["seconds"]
        return found

    def ask(self, models: Sequence[str], names: Sequence[str], rounds: int) -> None:
        """Note how many rounds of each contender are wanted, for tables of a run that was stopped."""
        for model, name in itertools.product(models, names):
            asked = self.figures["asked"].setdefault(model, {})
            asked[name] = max(rounds, asked.get(name, 0))
            self.figures["left out"].pop(name, None)

    def missing(self, models: Sequence[str], names: Sequence[str], rounds: int) -> Iterator[tuple[int, str, str]]:
        """Yield the number of the round, the model and the contender of each turn that is not kept yet.

        A round lets all contenders score one model, one directly after the other. Each round begins with a different
        contender.
        """
        for number, model, place in itertools.product(range(rounds), models, range(len(names))):
            name = names[(place + number) % len(names)]
            if name not in self.figures["left out"] and len(self.took.get(model, {}).get(name, ())) <= number:
                yield number, model, name

    def add(self, model: str, name: str, turn: dict[str, Any]) -> None:
        """Keep a turn."""
        if self._continues:
            self.figures["continued"].append(self._continues)
            self._continues = ""
        self.took.setdefault(model, {}).setdefault(name, []).append(turn)

    def leave_out(self, name: str, reason: str) -> None:
        """Forget the turns of a contender that cannot run, and keep the reason."""
        self.figures["left out"][name] = reason
        for found in (self.took, self.figures["largest difference"]):
            for by_name in found.values():
                by_name.pop(name, None)

    def write(self) -> None:
        """Write the figures to the file, if there is one."""
        if self._file is not None:
            write_whole(self._file, json.dumps(self.figures, indent=1) + "\n")
