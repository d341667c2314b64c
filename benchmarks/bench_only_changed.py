"""Score 2 million rows of 6 columns of which 1% have changed since the accepted run, with and without --only-changed.

Claim: with --only-changed, the job takes at most 0.15 of the CPU time of a full run, for a forest whose trees are
unlimited in depth. Both jobs read, count and write all rows; the difference is the model.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import RandomForestClassifier

from benchmarks.measure import positive, record_figure, table
from scoreline.tasks.job.documents import read_outcome
from scoreline.testing import EagerClient, eager

LIMIT = 0.15
ROWS, TREES, TRAINED = 2_000_000, 300, 50_000
COLUMNS = list("abcdef")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=ROWS, help="rows of the job")
    parser.add_argument("--trees", type=positive, default=TREES, help="trees of the forest")
    parser.add_argument("--rounds", type=positive, default=3, help="jobs of each kind, in turns")
    given = parser.parse_args()
    chance = np.random.default_rng(0)
    rows = pd.DataFrame({"id": range(given.rows)} | {name: chance.normal(size=given.rows) for name in COLUMNS})
    full: list[float] = []
    changed: list[float] = []
    with tempfile.TemporaryDirectory() as folder, eager(Path(folder)) as client:
        client.models.publish("forest", forest(given.trees))
        put(client, rows)
        run(client, "all", "j0")
        run(client, "changed", "k0", only_changed=True)
        for number in range(1, given.rounds + 1):
            rows.loc[chance.permutation(given.rows)[: given.rows // 100], "a"] += 1.0
            put(client, rows)
            full.append(run(client, "all", f"j{number}"))
            changed.append(run(client, "changed", f"k{number}", only_changed=True))
            outcome = read_outcome(client.buckets.main, f"k{number}")
            if outcome is None or outcome.carried != given.rows - given.rows // 100:
                raise RuntimeError(f"not all unchanged rows were carried over: {outcome}")
    table({"CPU s, full run": full, "CPU s, 1% changed": changed})
    print()
    what = f"{given.rows:,} rows, {given.trees} trees: CPU time of a job with --only-changed, 1% changed / a full run"
    record_figure("only-changed", what, [less / more for more, less in zip(full, changed, strict=True)], LIMIT)


def forest(trees: int) -> Any:
    """Return a forest whose trees are unlimited in depth."""
    chance = np.random.default_rng(1)
    x = pd.DataFrame({name: chance.normal(size=TRAINED) for name in COLUMNS})
    y = x.a * x.b + np.sin(3 * x.c) + x.d + chance.normal(size=TRAINED) > 0
    return RandomForestClassifier(trees, n_jobs=2, random_state=0).fit(x, y)


def put(client: EagerClient, rows: pd.DataFrame) -> None:
    """Write the input."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), sink, row_group_size=262_144)
    client.put("in/rows.parquet", sink.getvalue())


def run(client: EagerClient, output: str, job_id: str, **options: Any) -> float:
    """Run a job in this process, and return its CPU seconds."""
    begun = time.process_time()
    client.submit("forest", "s3://scoreline/in/", output=f"s3://scoreline/{output}/", job_id=job_id, **options)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
