"""Draw ``benchmarks.png`` of what was measured: throughput against the limit, and memory against rows."""

from __future__ import annotations

import json
import statistics

import matplotlib

from benchmarks.measure import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"limit": "#888888", "scoreline": "#1f6f54", "scoreline_s3": "#4fa88a"}
OTHER = "#c9b28a"


def main() -> None:
    """Draw what there is."""
    told = json.loads((RESULTS / "throughput.json").read_text())
    models = told["seconds"]
    memory = RESULTS / "memory-by-rows.json"
    figure, axes = pyplot.subplots(1, len(models) + 1, figsize=(4 * (len(models) + 1), 4), layout="constrained")
    for axis, (model, by_name) in zip(axes, models.items(), strict=False):
        rows = told["rows"] // 4 if model == "text" else told["rows"]
        rates = {name: rows / statistics.median(run["work"] for run in runs) / 1e3 for name, runs in by_name.items()}
        names = list(rates)[::-1]
        axis.barh(names, [rates[name] for name in names], color=[COLOURS.get(name, OTHER) for name in names])
        if "limit" in rates:
            axis.axvline(rates["limit"], color="black", linewidth=0.8, linestyle="--")
        axis.set_title(model)
        axis.set_xlabel("thousand rows a second")
    if memory.exists():
        by_rows = json.loads(memory.read_text())["MiB by rows"]
        axes[-1].plot([int(rows) / 1e6 for rows in by_rows], list(by_rows.values()), "o-", color=COLOURS["scoreline"])
        axes[-1].set_ylim(0, 1.2 * max(by_rows.values()))
        axes[-1].set_xlabel("million rows in the job")
        axes[-1].set_title("private memory (anonymous) of a\nworker process, peak in MiB", fontsize=10)
    figure.suptitle(f"Two processes, {told['machine']}", fontsize=9)
    figure.savefig(RESULTS / "benchmarks.png", dpi=110)


if __name__ == "__main__":
    main()
