"""What every contender has in common: its arguments, its rehearsal, its clock, and the lines it prints."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.work import PROCESSES, inputs

Work = Callable[[list[Path], Path], dict[str, Any] | None]
"""Scores files into a folder; returns what there is to tell besides, ``work`` where it knows that better."""
Prepare = Callable[[str], Work]
"""Gets ready for a model."""
REHEARSALS = 2
"""In the first, a process that starts late may find its file taken."""


def run(name: str, start: Callable[[Path], AbstractContextManager[Prepare]], *, rehearsed: bool = False) -> None:
    """Start, score, and print a line of JSON a model: ``{"model", "start", "work"}``, in seconds.

    Parameters
    ----------
    name : str
        Of the contender.
    start : callable
        Starts what it needs, below a folder; ``start`` is what it takes until the first model can be asked for.
    rehearsed : bool
        Whether preparing rehearses. Else all of the work is done before on a file for each process, so that ``work``
        finds imports, compilers, readers and writers warm.
    """
    parser = argparse.ArgumentParser(description=f"The contender {name!r}.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    begun = time.perf_counter()
    with start(folder) as prepare:
        started = time.perf_counter() - begun
        for model in asked.models:
            files, work = inputs(folder, model), prepare(model)
            for _ in range(0 if rehearsed else REHEARSALS):
                work(files[:PROCESSES], _emptied(folder / "rehearsal" / name))
            shutil.rmtree(folder / "rehearsal", ignore_errors=True)
            out = _emptied(folder / "out" / name / model)
            begun = time.perf_counter()
            result = work(files, out) or {}
            took = time.perf_counter() - begun
            print(json.dumps({"model": model, "start": started, "work": took} | result), flush=True)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
