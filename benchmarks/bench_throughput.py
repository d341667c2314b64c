"""Compare Scoreline with a handwritten loop and with the peers: two million rows in two processes.

The contenders take turns on the same files and models for several rounds, and ratios are computed within a round. All
contenders must have equal results.

After each turn, the figures are written to throughput.json and, as a table, to throughput.md, in the folder
benchmarks/results. A run that is stopped loses one turn, and the table says how many rounds each contender has. The
next run adds the turns that are missing, if the number of rows, the commit and the machine are the same; otherwise it
starts anew. To measure in several sittings, choose some models or contenders at a time.

Commands:

  python -m benchmarks.bench_throughput                       everything; continues a run that was stopped
  python -m benchmarks.bench_throughput --models forest text  two of the models
  python -m benchmarks.bench_throughput --contenders limit scoreline --rounds 5
  QUICK=1 python -m benchmarks.bench_throughput --rows 160000 --rounds 1
                                                              a first look, in benchmarks/results/quick
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report, work
from benchmarks.measure import RESULTS, positive, write_whole
from benchmarks.rounds import Rounds
from benchmarks.turn import OURS, PEERS, THEIRS, turn

TOLERANCE = 1e-12
"""Allowed difference of probabilities. Rounding in linear algebra depends on the number of rows computed at once."""


def left_out(names: Sequence[str]) -> dict[str, str]:
    """Return the contenders that cannot run on this machine, with the reason."""
    no_java = "spark" in names and shutil.which("java") is None
    return {"spark": "there is no Java"} if no_java else {}


def result(folder: Path, name: str, model: str) -> pa.Table:
    """Read the results of a contender, sorted by id."""
    files = sorted((folder / "out" / name / model).rglob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(file).read(columns=list(work.RESULT)) for file in files])
    return table.sort_by("id")


def difference(folder: Path, name: str, model: str, other_name: str = "script") -> float:
    """Return the largest difference between the probabilities of two contenders. Exit if results are not equal."""
    one, other = result(folder, other_name, model), result(folder, name, model)
    for column in ("id", "prediction"):
        if not np.array_equal(one[column].to_numpy(), other[column].to_numpy()):
            raise SystemExit(f"{name} differs in {column!r} of {model}")
    apart = max(float(np.abs(one[c].to_numpy() - other[c].to_numpy()).max()) for c in ("proba_0", "proba_1"))
    if apart > TOLERANCE:
        raise SystemExit(f"{name} differs by {apart} in the probabilities of {model}")
    return apart


def compare(rounds: Rounds, folder: Path, model: str) -> None:
    """Compare each contender that has scored a model with the script, once. Exit if results are not equal."""
    names = rounds.took.get(model, {})
    if "script" not in names:
        return
    apart = rounds.figures["largest difference"].setdefault(model, {})
    apart |= {name: difference(folder, name, model) for name in names if name != "script" and name not in apart}


def measured(
    rounds: Rounds, turns: Iterable[tuple[int, str, str]], folder: Path, after: Callable[[str], None] = lambda _: None
) -> bool:
    """Run turns, and call a function with the model after each. Return whether all contenders could run."""
    all_ran = True
    for number, model, name in turns:
        try:
            # Each model has its own process, so that no model profits from another model's caches.
            result = turn(name, folder, model)
        except RuntimeError as error:
            if name in OURS:
                sys.exit(f"{name} failed with {error}")
            print(f"{name} is left out: {error}", file=sys.stderr)
            rounds.leave_out(name, f"failed with {error}")
            all_ran = False
        else:
            rounds.add(model, name, result)
            print(f"round {number + 1} {name:16} {model:17} {result['work']:7.2f} s", file=sys.stderr)
        after(model)
    return all_ran


def asked() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=positive, default=3, help="turns of each contender with each model (default: 3)"
    )
    parser.add_argument(
        "--rows",
        type=work.rows,
        default=work.ROWS,
        help=f"rows of numbers; there are a quarter as many texts (default: {work.ROWS})",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=work.MODELS,
        default=list(work.MODELS),
        metavar="MODEL",
        help=f"models to score with: {', '.join(work.MODELS)} (default: all)",
    )
    names = OURS + THEIRS
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=names,
        default=list(names),
        metavar="NAME",
        help=f"who takes turns: {', '.join(names)} (default: all); ratios need limit, "
        "and results are compared with those of script",
    )
    found = parser.parse_args()
    if not PEERS.exists() and set(found.contenders) & set(THEIRS):
        parser.error("the peers are not installed: `make bench` does so, and `--contenders` can leave them out")
    return found


def main() -> None:
    """Measure, compare, and write; exit with 1 if a peer failed."""
    wanted = asked()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM; the same command continues"))
    folder = work.prepared(wanted.rows)
    rounds = Rounds(RESULTS / "throughput.json", {"rows": wanted.rows})
    rounds.ask(wanted.models, wanted.contenders, wanted.rounds)
    for name, reason in left_out(wanted.contenders).items():
        rounds.leave_out(name, reason)

    def keep(model: str) -> None:
        compare(rounds, folder, model)
        rounds.write()
        write_whole(RESULTS / "throughput.md", report.throughput(rounds.figures))

    turns = rounds.missing(wanted.models, wanted.contenders, wanted.rounds)
    all_ran = measured(rounds, turns, folder, keep)
    print(report.throughput(rounds.figures))
    if not all_ran:
        sys.exit(1)


if __name__ == "__main__":
    main()
