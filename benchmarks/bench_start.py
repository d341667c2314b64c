"""Measure how long ``scoreline --help`` takes, and how long an application takes to import the client.

Claim: the help and the import take at most 0.25 s each.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import no_options, record_figure

RUNS, LIMIT_S = 11, 0.25


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    scoreline = str(Path(sys.executable).with_name("scoreline"))
    for name, label, command in (
        ("help", "s for `scoreline --help`", [scoreline, "--help"]),
        ("import", "s for `import scoreline.tasks.client`", [sys.executable, "-c", "import scoreline.tasks.client"]),
        ("python", "s for `python -c pass`", [sys.executable, "-c", "pass"]),
    ):
        took = []
        for run in range(RUNS + 1):
            begun = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            if run:  # leave out the first run, which reads from the disk
                took.append(time.perf_counter() - begun)
        record_figure(name, label, took, LIMIT_S if name != "python" else None)


if __name__ == "__main__":
    main()
