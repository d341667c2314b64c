"""Measure which changes of the data the default checks detect, and how often they raise a false alarm.

Claims: two samples of the same data raise no alarm, with 10,000 and with 1,000,000 rows. A shift of 0.2 standard
deviations, 1% of nulls, a new category, another unit, swapped columns, a moved class prior, doubled and halved rows
are all detected.

A true alarm is a finding about a column that was changed; a false alarm is a finding about another column. As in a job,
a sample of a large run is counted. With ``--peers``, Evidently compares the same data, in an environment of its own,
which this script makes: with 10,000 rows all changes and sets; with 1,000,000 rows, of which a comparison takes half a
minute of CPU time, one of its presets, one set and some changes. The tables of both are written to
``results/detection_ROWS.md``. Claims: in the same trials, the default checks detect at least what Evidently does, with
no more false alarms, in less time and memory.
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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.detected import Change, changes, data_sets
from benchmarks.measure import RESULTS, positive, record_figure
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.run_checks import RunCounts, run_checks
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.quality.profiles.sampling import sampled_rows, sampling_rate

PEER = Path(".cache/peers/evidently")
PRESETS = {
    "drift": "its preset of data drift",
    "tests": "its presets of data drift and of a summary, with the tests that they generate from the baseline",
}
MANY_ROWS = 100_000
"""Number of rows from which each trial takes so long that there are fewer."""
PEER_CHANGES = ("0.2 sd shift", "1% nulls", "new category, 1%", "class prior moved", "half missing")
"""The changes that Evidently compares in so many rows: those that are hard to detect, and one of the rows."""
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
    """CPU seconds of each trial: of profiling the new data and of the checks."""

    def add(self, change: Change | None, names: list[str], alarms: set[str], cpu_s: float) -> None:
        """Add the columns about which there was an alarm; the empty name stands for the number of rows."""
        changed = set() if change is None else set(change.columns or ("",))
        self.trials += 1
        self.detected += bool(alarms & changed)
        self.columns += len(set(names) - changed)
        self.false_alarms += len(alarms - changed)
        self.cpu_s.append(cpu_s)


type Tallies = dict[str, Tally]


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


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Which data are compared."""

    rows: int
    seeds: int
    sets: Sequence[str]
    only: Collection[str] = ()
    """Names of the changes; empty for all of them. Data without a change are always compared."""

    def __iter__(self) -> Iterator[tuple[pd.DataFrame, Change | None, pd.DataFrame]]:
        """Yield the baseline, the change and the changed data of each trial."""
        for name in self.sets:
            draw = data_sets()[name]
            for seed in range(self.seeds):
                generator = np.random.default_rng([seed, self.rows, len(name)])
                before, now = draw(generator, self.rows), draw(generator, self.rows)
                yield before, None, now
                for change in changes(before):
                    changed = change.apply(now, generator)
                    if not self.only or change.name in self.only:
                        yield before, change, changed

    def __str__(self) -> str:
        several = f"{self.seeds} seeds" if self.seeds > 1 else "1 seed"
        return f"Sets: {', '.join(self.sets)}. {several}."


def measure(trials: Trials) -> Tallies:
    """Return what the default checks find, by change."""
    tallies: Tallies = defaultdict(Tally)
    known: tuple[pd.DataFrame, Profile] | None = None
    for before, change, now in trials:
        if known is None or known[0] is not before:
            known = before, profiled(before)
        begun = time.process_time()
        found = alarms_of(known[1], now)
        spent = time.process_time() - begun
        tallies[change.name if change else "none"].add(change, list(before.columns), found, spent)
    return tallies


def measure_peer(trials: Trials, presets: Sequence[str]) -> list[Tallies]:
    """Return what Evidently finds on the same data, for each of its presets."""
    tallies: list[Tallies] = [defaultdict(Tally) for _ in presets]
    with tempfile.TemporaryDirectory() as folder, peer_process() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        paths = [str(Path(folder) / name) for name in ("before.parquet", "now.parquet")]
        for before, change, now in trials:
            for path, frame in zip(paths, (before, now), strict=True):
                frame.to_parquet(path)
            for preset, tally in zip(presets, tallies, strict=True):
                print(preset, *paths, sep="\t", file=process.stdin, flush=True)
                if not (line := process.stdout.readline()):
                    raise SystemExit("Evidently has failed, see above")
                found: dict[str, Any] = json.loads(line)
                names = list(before.columns)
                tally[change.name if change else "none"].add(change, names, set(found["alarms"]), found["cpu_s"])
    return tallies


def peer_process() -> subprocess.Popen[str]:
    """Start the process of the peer, which answers lines."""
    command = [str(PEER / "bin/python"), "benchmarks/evidently_peer.py"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def memory(rows: int, presets: Sequence[str] = ()) -> list[float]:
    """Return the MiB of a process that only reads and checks two sets of customers, for the checks and each preset."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("before.parquet", "now.parquet")]
        for seed, path in enumerate(paths):
            data_sets()["customers"](np.random.default_rng(seed), rows).to_parquet(path)
        command = [sys.executable, "-m", "benchmarks.bench_detection", "--compare", *paths]
        found = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)]
        for preset in presets:
            with peer_process() as process:
                answer, _ = process.communicate("\t".join([preset, *paths]) + "\n")
            found.append(json.loads(answer)["mib"])
        return found


def compare(before: str, now: str) -> None:
    """Check one file against another, and print the MiB that this process took."""
    alarms_of(profiled(pd.read_parquet(before)), pd.read_parquet(now))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def table(titles: Sequence[str], tallies: Sequence[Tallies], mib: Sequence[float]) -> str:
    """Return a table of true and false alarms in Markdown."""
    lines = [
        "| change | " + " | ".join(f"{title}: detected | false alarms | CPU s" for title in titles) + " |",
        "|---|" + "---|---|---|" * len(titles),
    ]
    for name in tallies[0]:
        cells = [name]
        for tally in (of[name] for of in tallies):
            cells.append("" if name == "none" else f"{tally.detected} of {tally.trials}")
            cells += [f"{tally.false_alarms} of {tally.columns}", f"{np.median(tally.cpu_s):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    said = ", ".join(f"{size:,.0f} MiB ({title})" for title, size in zip(titles, mib, strict=True))
    return "\n".join([*lines, "", f"Memory of a process that compares two sets of customers: {said}.", ""])


def record_contest(rows: int, preset: str, ours: Tallies, theirs: Tallies, mib: tuple[float, float]) -> None:
    """Record how the default checks compare with a preset of the peer on the same trials."""
    detected = [sum(tally.detected for name, tally in of.items() if name not in UNDETECTED) for of in (ours, theirs)]
    alarms = [sum(tally.false_alarms for tally in of.values()) for of in (ours, theirs)]
    cpu_s = [sum(sum(tally.cpu_s) for tally in of.values()) for of in (ours, theirs)]
    about = f"the default checks / Evidently ({preset}), {rows:,} rows"
    name = f"detection_{preset}_{rows}"
    record_figure(f"{name}_found", f"changes detected: {about}", [detected[0] / max(1, detected[1])], -1.0)
    excess = f"false alarms of the default checks beyond those of Evidently ({preset}), {rows:,} rows"
    record_figure(f"{name}_alarms", excess, [float(max(0, alarms[0] - alarms[1]))], _LESS_THAN_ONE)
    record_figure(f"{name}_cpu", f"CPU seconds: {about}", [cpu_s[0] / cpu_s[1]], 1.0)
    record_figure(f"{name}_mib", f"memory: {about}", [mib[0] / mib[1]], 1.0)


def install() -> None:
    """Make the environment of the peer."""
    if not (PEER / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin/pip"), "install", "-q", "evidently", "pandas<3", "pyarrow"], check=True)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seeds", type=positive, default=5, help="trials of each change and data set")
    parser.add_argument("--sets", nargs="+", default=[*data_sets()], choices=[*data_sets()], help="data sets")
    parser.add_argument("--peers", action="store_true", help="also let Evidently compare data of the same seeds")
    parser.add_argument("--peer-seeds", type=positive, default=1, help="trials of each change and set for Evidently")
    parser.add_argument("--compare", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.compare:
        compare(*asked.compare)
        return
    if asked.peers:
        install()
    for rows in asked.rows:
        few = rows < MANY_ROWS
        everything = Trials(rows=rows, seeds=asked.seeds if few else max(1, asked.seeds // 5), sets=asked.sets)
        tallies = measure(everything)
        whole = table(["default checks"], [tallies], memory(rows))
        print(whole, flush=True)
        alarms = sum(tally.false_alarms for tally in tallies.values())
        missed = sum(
            tally.trials - tally.detected for name, tally in tallies.items() if name not in ("none", *UNDETECTED)
        )
        about = f"the default checks, {rows:,} rows"
        record_figure(f"detection_false_alarms_{rows}", f"false alarms of {about}", [float(alarms)], _LESS_THAN_ONE)
        record_figure(f"detection_missed_{rows}", f"changes missed by {about}", [float(missed)], _LESS_THAN_ONE)
        if asked.peers:
            sets = asked.sets if few else asked.sets[:1]
            some = Trials(rows=rows, seeds=asked.peer_seeds, sets=sets, only=() if few else PEER_CHANGES)
            contest(some, [*PRESETS] if few else [*PRESETS][:1], f"{everything}\n\n{whole}")


def contest(trials: Trials, presets: Sequence[str], whole: str) -> None:
    """Compare the default checks with presets of the peer on the same trials, and write the tables."""
    everything = [measure(trials), *measure_peer(trials, presets)]
    mib = memory(trials.rows, presets)
    compared = table(["default checks", *(f"Evidently, {preset}" for preset in presets)], everything, mib)
    print(compared, flush=True)
    for preset, theirs, size in zip(presets, everything[1:], mib[1:], strict=True):
        record_contest(trials.rows, preset, everything[0], theirs, (mib[0], size))
    explained = "; ".join(f"`{preset}` is {PRESETS[preset]}" for preset in presets)
    head = f"# Detection: {trials.rows:,} rows\n\nFigures of `benchmarks/bench_detection.py --peers`. {whole}"
    text = f"{head}\n## The same data in Evidently\n\n{trials} {explained[:1].upper()}{explained[1:]}.\n\n{compared}"
    (RESULTS / f"detection_{trials.rows}.md").write_text(text)


if __name__ == "__main__":
    main()
