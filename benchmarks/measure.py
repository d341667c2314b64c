"""Functions that the benchmarks share: they run code in fresh processes, measure memory, and print figures."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from scoreline.tasks.quality.results.whole_file import whole_file


def in_fresh_process(module: str, environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments...`` and return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | dict(environ),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class PeakMemory:
    """Samples the private memory (USS) of processes in a `with` block every 2 ms.

    `before` and `peak` are the first and the largest number of bytes of a process.

    Parameters
    ----------
    pids : int
        The processes. Default: this one.
    """

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(pid) for pid in pids or (None,)]

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self.before = self.peak = max(private_bytes(process.pid) for process in self._processes)
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            for process in self._processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    info = process.memory_info()
                    self.peak = max(self.peak, info.rss - info.shared)


def private_bytes(pid: int | None = None) -> int:
    """Return the anonymous resident memory of a process."""
    info = psutil.Process(pid).memory_info()
    return int(info.rss - info.shared)


def table(rows: Mapping[str, Sequence[float]], form: str = "{:.2f}") -> None:
    """Print medians and spreads."""
    print("| | median | min | max | of |\n|---|---|---|---|---|")
    for name, values in rows.items():
        shown = [form.format(value) for value in (statistics.median(values), min(values), max(values))]
        print(f"| {name} | {' | '.join(shown)} | {len(values)} |")


RESULTS = Path(__file__).resolve().parent / "results" / ("quick" if os.environ.get("QUICK") else "")
"""Folder for the figures. With ``QUICK=1`` it is another folder, so that quick runs do not overwrite full figures."""


def verdict(got: float, limit: float) -> str:
    """Say whether a figure meets its limit, or by how much it misses the limit. A negative limit is a minimum."""
    over = got / abs(limit) - 1
    missed = -over if limit < 0 else over
    if missed <= 0:
        return "reached"
    if missed < 0.0005:
        return "missed by less than 0.1%"
    return f"missed by {missed:.1%}" if missed < 0.01 else f"missed by {missed:.0%}"


def shown(values: Sequence[float]) -> str:
    """Return the median, the spread and the number of some figures."""
    spread = f"{min(values):.3g} to {max(values):.3g}, " if len(values) > 1 else ""
    return f"{statistics.median(values):.3g} ({spread}{len(values)} {'runs' if len(values) > 1 else 'run'})"


def write_whole(file: Path, text: str) -> None:
    """Replace a file with a new text. If the process is killed meanwhile, the file still has its old text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as temporary:
        temporary.write_text(text)


def positive(text: str) -> int:
    """Parse a positive number of the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def no_options(about: str | None) -> None:
    """Parse the command line of a benchmark without options: answer ``--help``, and refuse everything else."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()


def record_figure(name: str, what: str, values: Sequence[float], limit: float | None = None) -> None:
    """Print a figure with its limit (see `verdict`), and store it in ``NAME.json`` of `RESULTS`."""
    got = statistics.median(values)
    bound, said = "", ""
    if limit is not None:
        bound, said = f"at least {-limit:g}" if limit < 0 else f"at most {limit:g}", verdict(got, limit)
    print(f"| {what} | {shown(values)} | {bound} | {said} |", flush=True)
    text = {"what": what, "values": list(values), "median": got, "limit": bound, "verdict": said}
    write_whole(RESULTS / f"{name}.json", json.dumps(text, indent=1) + "\n")
