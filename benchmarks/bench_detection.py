"""Measure which changes of the data the default checks detect, and how often they raise a false alarm.

Claims: two samples of the same data raise no alarm, with 10,000 and with 1,000,000 rows. A shift of 0.2 standard
deviations, 1% of nulls, a new category, another unit, swapped columns, a moved class prior, doubled and halved rows
are all detected.

A true alarm is a finding about a column that was changed; a false alarm is a finding about another column. With
``--peers``, Evidently compares the same files, in an environment of its own, which this script makes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.detected import Change, changes, data_sets
from benchmarks.measure import record_figure
from scoreline.tasks.quality.check_types import Checks
from scoreline.tasks.quality.checks import RunCounts, run_checks
from scoreline.tasks.quality.counting import profile_of
from scoreline.tasks.quality.profile import Profile

PEER = Path(".cache/peers/evidently")
UNDETECTED = ("0.1 sd shift",)
"""Changes that lie at the limit, so that chance decides whether they are detected."""

_LESS_THAN_ONE = 0.5
"""The limit of a count that must be 0."""


@dataclass
class Tally:
    """What was found of one change."""

    trials: int = 0
    detected: int = 0
    columns: int = 0
    """Number of columns that were not changed, in all trials."""
    false_alarms: int = 0
    cpu_s: list[float] = field(default_factory=list)

    def add(self, change: Change | None, names: list[str], alarms: set[str], cpu_s: float) -> None:
        """Add the columns about which there was an alarm; the empty name stands for the number of rows."""
        changed = set() if change is None else set(change.columns or ("",))
        self.trials += 1
        self.detected += bool(alarms & changed)
        self.columns += len(set(names) - changed)
        self.false_alarms += len(alarms - changed)
        self.cpu_s.append(cpu_s)


def profiled(frame: pd.DataFrame) -> Profile:
    """Return the profile of a set, whose column ``score`` is the output of a model."""
    table = pa.Table.from_pandas(frame.drop(columns="score"), preserve_index=False)
    return profile_of(table, pa.table({"score": frame["score"]}))


def alarms_of(before: Profile, now: Profile) -> set[str]:
    """Return the columns that the default checks find; the empty name stands for the number of rows."""
    found = run_checks(
        Checks(),
        counts=RunCounts(rows=now.rows),
        profile=now,
        baseline=before,
        last=RunCounts(rows=before.rows),
        now=datetime.now(UTC),
    )
    return {finding.column for finding in found}


def trials(rows: int, seeds: int) -> Iterator[tuple[str, int, pd.DataFrame, Change | None, pd.DataFrame]]:
    """Yield the data set, the seed, the baseline, the change and the changed data of each trial."""
    for name, draw in data_sets().items():
        for seed in range(seeds):
            generator = np.random.default_rng([seed, rows, len(name)])
            before, now = draw(generator, rows), draw(generator, rows)
            yield name, seed, before, None, now
            for change in changes(before):
                yield name, seed, before, change, change.apply(now, generator)


def measure(rows: int, seeds: int) -> dict[str, Tally]:
    """Return what the default checks find, by change."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    known: tuple[int, Profile] | None = None
    for _, _, before, change, now in trials(rows, seeds):
        if known is None or known[0] != id(before):
            known = id(before), profiled(before)
        begun = time.process_time()
        found = alarms_of(known[1], profiled(now))
        spent = time.process_time() - begun
        tallies[change.name if change else "none"].add(change, list(before.columns), found, spent)
    return tallies


def measure_peer(rows: int, seeds: int) -> tuple[dict[str, Tally], float]:
    """Return what Evidently finds on the same data, and the memory that its process took, in MiB."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    memory = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for _, _, before, change, now in trials(rows, seeds):
            paths = [str(Path(folder) / name) for name in ("before.parquet", "now.parquet")]
            for path, frame in zip(paths, (before, now), strict=True):
                frame.to_parquet(path)
            done = subprocess.run(
                [str(PEER / "bin/python"), "benchmarks/evidently_peer.py", *paths], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            memory = max(memory, found["mib"])
            tallies[change.name if change else "none"].add(
                change, list(before.columns), set(found["drifted"]), found["cpu_s"]
            )
    return tallies, memory


def show(title: str, tallies: dict[str, Tally]) -> None:
    """Print a table of true and false alarms."""
    print(f"\n{title}\n{'change':<20}{'detected':>12}{'false alarms':>16}{'CPU s':>9}")
    for name, tally in tallies.items():
        detected = "" if name == "none" else f"{tally.detected}/{tally.trials}"
        alarms = f"{tally.false_alarms}/{tally.columns}"
        print(f"{name:<20}{detected:>12}{alarms:>16}{np.median(tally.cpu_s):>9.2f}")


def install() -> None:
    """Make the environment of the peer."""
    if not (PEER / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin/pip"), "install", "-q", "evidently", "pandas<3", "pyarrow"], check=True)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seeds", type=int, default=5, help="trials of each change and data set")
    parser.add_argument("--peers", action="store_true", help="also let Evidently compare the same data")
    asked = parser.parse_args()
    if asked.peers:
        install()
    for rows in asked.rows:
        seeds = asked.seeds if rows < 100_000 else max(1, asked.seeds // 5)
        tallies = measure(rows, seeds)
        show(f"default checks, {rows:,} rows, {seeds} seeds", tallies)
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"memory of this process with all data: {mib:,.0f} MiB")
        alarms = sum(tally.false_alarms for tally in tallies.values())
        missed = sum(
            tally.trials - tally.detected for name, tally in tallies.items() if name not in ("none", *UNDETECTED)
        )
        record_figure(
            f"detection_false_alarms_{rows}", "false alarms of the default checks", [float(alarms)], _LESS_THAN_ONE
        )
        record_figure(
            f"detection_missed_{rows}", "changes that the default checks miss", [float(missed)], _LESS_THAN_ONE
        )
        if asked.peers:
            peer, memory = measure_peer(rows, seeds)
            show(f"Evidently, {rows:,} rows, {seeds} seeds", peer)
            print(f"memory of one process of Evidently: {memory:,.0f} MiB")


if __name__ == "__main__":
    main()
