"""Compare Scoreline with Dask, Ray Data and Spark on two typical inputs: pandas' row groups, and small files.

The contenders run as in `benchmarks.bench_throughput`: all of them read the same files from the same disk, are warm,
and must have equal results. The inputs are two of the typical inputs in `benchmarks.shapes`. The model is a logistic
regression, which scores so fast that differences in reading show.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import joblib
import pyarrow.parquet as pq

from benchmarks import report, work
from benchmarks.bench_throughput import difference, left_out, measured
from benchmarks.machine import described
from benchmarks.measure import RESULTS, positive, write_whole
from benchmarks.rounds import Rounds
from benchmarks.shapes import SHAPES, fitted, made
from benchmarks.turn import PEERS, THEIRS

CONTENDERS = ("limit", "scoreline", *THEIRS)
_LEGEND = (
    "*work* is from the order to the last result, after a rehearsal of the same work, *whole* with starting, loading "
    "and rehearsing. *limit* is a loop by hand in two processes: a process takes the next row group, or a bundle of "
    "small files. Contenders take turns; times are medians, and the ratio is taken within a round."
)


def prepared(name: str, share: float) -> Path:
    """Return a folder with the files of a typical input and the model that scores them."""
    folder = work.DATA / f"peers-{share:g}"
    (folder / "models").mkdir(parents=True, exist_ok=True)
    joblib.dump(fitted(SHAPES[name], "linear"), folder / "models" / f"{name}.joblib")
    files = folder / name
    files.unlink(missing_ok=True)
    files.symlink_to(made(name, share), target_is_directory=True)
    return folder


def main() -> None:
    """Measure, compare, and write; exit with 1 if a peer failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=2, help="turns of each contender")
    parser.add_argument("--shapes", nargs="+", choices=work.SHAPED, default=list(work.SHAPED))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows, for a first look")
    asked = parser.parse_args()
    if not PEERS.exists() and set(asked.contenders) & set(THEIRS):
        parser.error("the peers are not installed: `make bench` does so")
    rounds = Rounds()
    rounds.ask(asked.shapes, asked.contenders, asked.rounds)
    for name, reason in left_out(asked.contenders).items():
        rounds.leave_out(name, reason)
    rows: dict[str, int] = {}
    all_ran = True
    for shape in asked.shapes:
        folder = prepared(shape, asked.share)
        rows[shape] = sum(pq.read_metadata(file).num_rows for file in work.inputs(folder, shape))
        all_ran &= measured(rounds, rounds.missing([shape], asked.contenders, asked.rounds), folder)
        names = rounds.took.get(shape, {})
        for name in names:
            if "limit" in names:
                difference(folder, name, shape, "limit")
    lines = ["# Peers on inputs as people have them", "", f"{described()}.", "", _LEGEND, ""]
    lines += [f"- **{name}** was left out: {reason}" for name, reason in rounds.figures["left out"].items()]
    for shape, by_name in rounds.took.items():
        lines += report.seconds(shape, by_name, rows[shape])
    text = "\n".join(lines) + "\n"
    write_whole(RESULTS / "peers.json", json.dumps({"rows": rows, "seconds": rounds.took}, indent=1) + "\n")
    write_whole(RESULTS / "peers.md", text)
    print(text)
    if not all_ran:
        sys.exit(1)


if __name__ == "__main__":
    main()
