"""Parses the arguments of a contender, rehearses, measures, and prints the output, in the same way for all."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.work import FILES, PROCESSES, inputs

Work = Callable[[list[Path], Path], dict[str, Any] | None]
"""Scores files and writes the results into a folder. It may return more values to print, such as an exact ``work``."""
Prepare = Callable[[str], Work]
"""Prepares a model, and returns the function that scores with it."""
REHEARSALS = 2
"""Number of rehearsals. One rehearsal is not enough, because a process that starts late may find no file left."""


def run(name: str, start: Callable[[Path], AbstractContextManager[Prepare]], *, rehearsed: bool = False) -> None:
    """Start, score, and print a line of JSON for each model: ``{"model", "start", "work"}``, in seconds.

    Parameters
    ----------
    name : str
        Name of the contender.
    start : callable
        Starts the contender for the files and models in a folder. The printed ``start`` is the time until the contender
        is ready for the first model.
    rehearsed : bool
        Whether preparing a model includes a rehearsal. If not, `rehearsed_files` are scored beforehand, so that
        ``work`` finds imports, compilers, readers and writers warm.
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
                work(rehearsed_files(files), _emptied(folder / "rehearsal" / name))
            shutil.rmtree(folder / "rehearsal", ignore_errors=True)
            out = _emptied(folder / "out" / name / model)
            begun = time.perf_counter()
            result = work(files, out) or {}
            took = time.perf_counter() - begun
            print(json.dumps({"model": model, "start": started, "work": took} | result), flush=True)


def rehearsed_files(files: list[Path]) -> list[Path]:
    """Return the files for a rehearsal: one for each process, or all files if there are many small ones."""
    return files[:PROCESSES] if len(files) <= FILES else files


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
