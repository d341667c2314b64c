"""Measure which changes of the data the default checks detect, and how often they raise a false alarm.

Claims: two samples of the same data raise no alarm, with 10,000 and with 1,000,000 rows. A shift of 0.2 standard
deviations, 1% of nulls, a new category, another unit, swapped columns, a moved class prior, doubled and halved rows
are all detected.

A true alarm is a finding about a column that was changed; a false alarm is a finding about another column. As in a job,
a sample of a large run is counted. With ``--peers``, Evidently compares the same data, in an environment of its own,
which this script makes; the tables of both are written to ``results/detection_ROWS.md``.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.detected import Change, changes, data_sets
from benchmarks.measure import RESULTS, record_figure
from scoreline.tasks.quality.check_types import Checks
from scoreline.tasks.quality.checks import RunCounts, run_checks
from scoreline.tasks.quality.counting import profile_of
from scoreline.tasks.quality.profile import Profile
from scoreline.tasks.quality.sampling import sampled_rows, sampling_rate

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


def profiled(frame: pd.DataFrame, sampled: bool = False) -> Profile:
    """Return the profile of a set, whose column ``score`` is the output of a model."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if sampled and (one_in := sampling_rate(len(frame))) > 1:
        table = table.take(pa.array(sampled_rows("s3://scoreline/in.parquet", np.arange(len(frame)), one_in)))
    return profile_of(table.drop_columns("score"), table.select(["score"]))


def alarms_of(before: Profile, now: pd.DataFrame) -> set[str]:
    """Return the columns that the default checks find; the empty name stands for the number of rows."""
    found = run_checks(
        Checks(),
        counts=RunCounts(rows=len(now)),
        profile=profiled(now, sampled=True),
        baseline=before,
        last=RunCounts(rows=before.rows),
        now=datetime.now(UTC),
    )
    return {finding.column for finding in found}


def trials(
    rows: int, seeds: int, sets: Sequence[str]
) -> Iterator[tuple[str, int, pd.DataFrame, Change | None, pd.DataFrame]]:
    """Yield the data set, the seed, the baseline, the change and the changed data of each trial."""
    for name in sets:
        draw = data_sets()[name]
        for seed in range(seeds):
            generator = np.random.default_rng([seed, rows, len(name)])
            before, now = draw(generator, rows), draw(generator, rows)
            yield name, seed, before, None, now
            for change in changes(before):
                yield name, seed, before, change, change.apply(now, generator)


def measure(rows: int, seeds: int, sets: Sequence[str]) -> dict[str, Tally]:
    """Return what the default checks find, by change."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    known: tuple[int, Profile] | None = None
    for _, _, before, change, now in trials(rows, seeds, sets):
        if known is None or known[0] != id(before):
            known = id(before), profiled(before)
        begun = time.process_time()
        found = alarms_of(known[1], now)
        spent = time.process_time() - begun
        tallies[change.name if change else "none"].add(change, list(before.columns), found, spent)
    return tallies


def measure_peer(rows: int, seeds: int, sets: Sequence[str]) -> tuple[dict[str, Tally], float]:
    """Return what Evidently finds on the same data, and the memory that its process took, in MiB."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    memory = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [str(PEER / "bin/python"), "benchmarks/evidently_peer.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        paths = [str(Path(folder) / name) for name in ("before.parquet", "now.parquet")]
        for _, _, before, change, now in trials(rows, seeds, sets):
            for path, frame in zip(paths, (before, now), strict=True):
                frame.to_parquet(path)
            print(*paths, sep="\t", file=process.stdin, flush=True)
            if not (line := process.stdout.readline()):
                raise SystemExit("Evidently has failed, see above")
            found: dict[str, Any] = json.loads(line)
            memory = max(memory, found["mib"])
            tallies[change.name if change else "none"].add(
                change, list(before.columns), set(found["drifted"]), found["cpu_s"]
            )
    return tallies, memory


def memory_of_checks(rows: int) -> float:
    """Return the MiB of a process that only reads, profiles and checks one set of customers."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("before.parquet", "now.parquet")]
        for seed, path in enumerate(paths):
            data_sets()["customers"](np.random.default_rng(seed), rows).to_parquet(path)
        command = [sys.executable, "-m", "benchmarks.bench_detection", "--compare", *paths]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(before: str, now: str) -> None:
    """Check one file against another, and print the MiB that this process took."""
    alarms_of(profiled(pd.read_parquet(before)), pd.read_parquet(now))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def table(title: str, tallies: dict[str, Tally], mib: float) -> str:
    """Return a table of true and false alarms in Markdown."""
    lines = ["| change | detected | false alarms | CPU s |", "|---|---|---|---|"]
    for name, tally in tallies.items():
        detected = "" if name == "none" else f"{tally.detected} of {tally.trials}"
        alarms = f"{tally.false_alarms} of {tally.columns}"
        lines.append(f"| {name} | {detected} | {alarms} | {np.median(tally.cpu_s):.2f} |")
    return "\n".join([f"**{title}**", "", *lines, "", f"Memory of a process: {mib:,.0f} MiB.", ""])


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
    parser.add_argument("--sets", nargs="+", default=[*data_sets()], choices=[*data_sets()], help="data sets")
    parser.add_argument("--compare", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.compare:
        compare(*asked.compare)
        return
    if asked.peers:
        install()
    for rows in asked.rows:
        seeds = asked.seeds if rows < 100_000 else max(1, asked.seeds // 5)
        tallies = measure(rows, seeds, asked.sets)
        tables = [table(f"Default checks, {rows:,} rows", tallies, memory_of_checks(rows))]
        print(tables[-1])
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
            peer, memory = measure_peer(rows, seeds, asked.sets)
            tables.append(table(f"Evidently, {rows:,} rows", peer, memory))
            print(tables[-1])
            (RESULTS / f"detection_{rows}.md").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
