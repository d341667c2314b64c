"""Compare two Parquet files with Evidently's drift preset. Runs in the environment of `bench_detection`."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings

import pandas as pd

warnings.filterwarnings("ignore")


def main() -> None:
    """Print the columns that have drifted, the CPU seconds, and the memory of this process."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, now = (pd.read_parquet(path) for path in sys.argv[1:3])
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
    print(json.dumps({"drifted": drifted, "cpu_s": spent, "mib": mib}))


if __name__ == "__main__":
    main()
