"""Compare jobs with a handwritten loop on typical inputs: large row groups, wide tables, small files, texts.

Job and loop have two warm processes each, and take turns on the same objects; ratios are computed within a round. The
loop uses the fastest way to divide the work (see `benchmarks.byhand`). Requests and bytes are counted in a separate
run, because the relay that counts them takes time. The results of job and loop are compared once. Claims: the limits of
`benchmarks.shapes.SHAPES`.

New figures are added to the figures that earlier runs stored for other inputs. Each figure is stored with the commit,
the machine, and the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import shapes_report
from benchmarks.byhand import CONNECTIONS, WAYS
from benchmarks.contest import STORES, Run, contest, counted
from benchmarks.machine import commit, described
from benchmarks.measure import RESULTS, positive, write_whole
from benchmarks.shapes import MODELS, SHAPES
from benchmarks.shapes_report import Entry

FILE = RESULTS / "shapes.json"


def measured(name: str, model: str, store: str, asked: argparse.Namespace) -> Entry:
    """Let job and loop score in turns, after a rehearsal of both."""
    with contest(store, asked.connections) as contenders:
        contenders.bring(name, model, asked.share)
        best = contenders.rehearse(asked.way)
        runs: dict[str, list[Run]] = {"job": [], "byhand": []}
        for _ in range(asked.rounds):
            if best:
                runs["byhand"].append(contenders.by_hand(best))
            runs["job"].append(contenders.job())
            print(f"{name} {model} {store}: {shapes_report.line(runs)}", file=sys.stderr)
    return {"commit": commit(), "share": asked.share, "way": best, **runs}


def counts(name: str, share: float) -> Entry:
    """Count the requests of a job with a linear model, after a first job has loaded the model and shown its pace."""
    with counted() as contenders:
        contenders.bring(name, "linear", share)
        contenders.job()
        found = contenders.counted_job()
        layout = contenders.layout
    print(f"{name}: {found}", file=sys.stderr)
    return {
        "commit": commit(),
        "share": share,
        "needed_mb": layout.needed / 1e6,
        "objects": layout.objects,
        "largest_group_mb": layout.largest_group / 1e6,
        "traffic": found.to_dict(),
    }


def chosen(asked: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield each input, model and store to measure: only the combinations with a limit, or all combinations."""
    for name in asked.shapes:
        # If there is only a limit of memory, the store is a directory, because moto joins 3 GB too slowly.
        limited = list(SHAPES[name].limits) or [("directory", "linear")]
        for store in asked.stores:
            for model in asked.models:
                if asked.all or (store, model) in limited:
                    yield name, model, store


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each contender")
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows, for a first look")
    parser.add_argument(
        "--way", choices=WAYS, help="how the loop by hand divides the work; by default, what is fastest"
    )
    parser.add_argument(
        "--connections",
        type=positive,
        default=CONNECTIONS,
        help=f"files that the loop by hand fetches at a time, by default {CONNECTIONS}",
    )
    parser.add_argument("--all", action="store_true", help="also what has no limit")
    parser.add_argument("--only", choices=("times", "counts"), help="measure only times, or only count requests")
    parser.add_argument("--stages", action="store_true", help="also print the seconds by stage")
    parser.add_argument("--before", type=Path, help="shapes.json of another commit, to compare stages with")
    parser.add_argument("--tables", action="store_true", help="measure nothing, and write the tables again")
    asked = parser.parse_args()
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    took = shapes_report.with_machines(kept)
    if not asked.tables:
        machine = described()
        for name, model, store in chosen(asked) if asked.only != "counts" else ():
            found = measured(name, model, store, asked)
            took[f"{name} {model} {store}"] = found | {"machine": machine}
            _keep(took)
        for name in asked.shapes if asked.only != "times" else ():
            took[f"{name} counts"] = counts(name, asked.share) | {"machine": machine}
            _keep(took)
    before = json.loads(asked.before.read_text()) if asked.before else {}
    print(_keep(took))
    if asked.stages or before:
        text = "\n".join(shapes_report.stages(took, before)) + "\n"
        (RESULTS / "shapes_stages.md").write_text(f"# Where the time of jobs goes\n\n{text}")
        print(text)


def _keep(took: dict[str, Entry]) -> str:
    text = shapes_report.tables(took)
    write_whole(FILE, json.dumps(took, indent=1) + "\n")
    write_whole(RESULTS / "shapes.md", text)
    write_whole(RESULTS / "shapes_short.md", shapes_report.short(took))
    return text


if __name__ == "__main__":
    main()
