"""Compare pairs of Parquet files with Evidently's drift preset. Runs in the environment of `bench_detection`.

Each line of the standard input names two files, separated by a tab, and gives one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings

import pandas as pd

warnings.filterwarnings("ignore")


def main() -> None:
    """Print the columns that have drifted, the CPU seconds, and the memory of this process, for each line."""
    for line in sys.stdin:
        print(json.dumps(compare(*line.rstrip("\n").split("\t"))), flush=True)


def compare(before_path: str, now_path: str) -> dict[str, object]:
    """Return the columns that have drifted, the CPU seconds, and the memory of this process."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, now = pd.read_parquet(before_path), pd.read_parquet(now_path)
    begun = time.process_time()
    found = Report([DataDriftPreset()]).run(now, before).dict()
    spent = time.process_time() - begun
    drifted = []
    for metric in found["metrics"]:
        config = metric.get("config", {})
        column, method, threshold = config.get("column"), str(config.get("method", "")), config.get("threshold")
        if column is None or threshold is None:
            continue
        is_p_value = "p_value" in method
        if metric["value"] < threshold if is_p_value else metric["value"] >= threshold:
            drifted.append(column)
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"drifted": drifted, "cpu_s": spent, "mib": mib}


if __name__ == "__main__":
    main()
