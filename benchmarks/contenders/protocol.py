"""What every contender has in common: its arguments, its clock, and the lines it prints."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

Work = Callable[[list[Path], Path], dict[str, Any] | None]
"""Scores files into a folder; returns what there is to tell besides, ``work`` where it knows that better."""
Warm = Callable[[str], Work]
"""Gets ready for a model."""


def run(name: str, start: Callable[[Path], AbstractContextManager[Warm]]) -> None:
    """Start, score, and print a line of JSON a model: ``{"model", "start", "work"}``, in seconds.

    ``start`` is what it takes until the first model can be asked for; ``work`` leaves out start and warming up.
    """
    from benchmarks.work import inputs

    parser = argparse.ArgumentParser(description=f"The contender {name!r}.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    begun = time.perf_counter()
    with start(folder) as warm:
        started = time.perf_counter() - begun
        for model in asked.models:
            out = folder / "out" / name / model
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            work = warm(model)
            begun = time.perf_counter()
            told = work(inputs(folder, model), out) or {}
            took = time.perf_counter() - begun
            print(json.dumps({"model": model, "start": started, "work": took} | told), flush=True)
