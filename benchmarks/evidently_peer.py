"""Compare pairs of Parquet files with Evidently's presets. Runs in the environment of `bench_detection`.

Each line of the standard input names the presets, ``drift`` or ``tests``, and two files, separated by tabs, and gives
one line of JSON. ``drift`` is the preset of data drift. ``tests`` adds the preset of a summary, and both generate their
tests from the first file: of the number of rows, and of nulls, minimum, maximum, mean and quantiles of each column.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from typing import Any

import pandas as pd

warnings.filterwarnings("ignore")

ROW_TESTS = ("evidently:metric_v2:RowCount", "evidently:metric_v2:DuplicatedRowCount")
"""Tests of the number of rows; other tests of the whole set repeat what the tests of columns say."""


def main() -> None:
    """Print the alarms, the CPU seconds, and the memory of this process, for each line."""
    for line in sys.stdin:
        print(json.dumps(compare(*line.rstrip("\n").split("\t"))), flush=True)


def compare(presets: str, before_path: str, now_path: str) -> dict[str, object]:
    """Return the columns with an alarm (the empty name stands for the rows), the CPU seconds, and the memory."""
    from evidently import Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    before, now = pd.read_parquet(before_path), pd.read_parquet(now_path)
    begun = time.process_time()
    if presets == "drift":
        alarms = drifted(Report([DataDriftPreset()]).run(now, before).dict())
    else:
        report = Report([DataDriftPreset(), DataSummaryPreset()], include_tests=True)
        alarms = failed(report.run(now, before).dict())
    spent = time.process_time() - begun
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"alarms": sorted(alarms), "cpu_s": spent, "mib": mib}


def drifted(found: dict[str, Any]) -> set[str]:
    """Return the columns that have drifted."""
    alarms = set()
    for metric in found["metrics"]:
        config = metric.get("config", {})
        column, method, threshold = config.get("column"), str(config.get("method", "")), config.get("threshold")
        if column is None or threshold is None:
            continue
        is_p_value = "p_value" in method
        if metric["value"] < threshold if is_p_value else metric["value"] >= threshold:
            alarms.add(column)
    return alarms


def failed(found: dict[str, Any]) -> set[str]:
    """Return the columns of which a test has failed."""
    alarms = set()
    for test in found["tests"]:
        config = test["metric_config"]["params"]
        if not str(test["status"]).endswith("FAIL"):
            continue
        if config.get("column") is not None:
            alarms.add(config["column"])
        elif config["type"] in ROW_TESTS:
            alarms.add("")
    return alarms


if __name__ == "__main__":
    main()
