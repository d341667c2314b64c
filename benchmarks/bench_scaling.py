"""Compare how fast two worker processes and a single worker process score with a forest of 100 trees, in turns.

Claim: two processes score at least 1.9 times as many rows per second as one process. Two contenders of
`bench_throughput` show how much a second process helps on this machine without Scoreline: the handwritten loop has two
processes, and the script has one.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from benchmarks import work
from benchmarks.measure import positive, record_figure
from benchmarks.stand import Stand

ROWS, RUNS, LIMIT = 2_000_000, 3, 1.9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=work.rows, default=ROWS)
    parser.add_argument("--runs", type=positive, default=RUNS)
    asked = parser.parse_args()
    folder = work.prepared(asked.rows)
    features = work.columns("forest")[1:]
    took: dict[int, list[float]] = {1: [], 2: []}
    with contextlib.ExitStack() as stack:
        stands = {count: stack.enter_context(Stand(Path(".scoreline"), processes=count)) for count in took}
        for stand in stands.values():
            stand.get_ready(folder, "forest")
        for _ in range(asked.runs):
            for count, stand in stands.items():
                took[count].append(stand.score("forest", "in/forest/", features=features).seconds or 0.0)
    record_figure(
        "scaling", "rate of two processes / rate of one", [a / b for a, b in zip(took[1], took[2], strict=True)], -LIMIT
    )


if __name__ == "__main__":
    main()
