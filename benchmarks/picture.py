"""Draw ``benchmarks.png`` from the stored figures: throughput beside the limit, and memory by number of rows."""

from __future__ import annotations

import json
import statistics
import textwrap

import matplotlib

from benchmarks.measure import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"limit": "#888888", "scoreline": "#1f6f54", "scoreline_s3": "#4fa88a"}
OTHER = "#c9b28a"


def main() -> None:
    """Draw all figures that exist."""
    result = json.loads((RESULTS / "throughput.json").read_text())
    models = result["seconds"]
    memory = RESULTS / "memory-by-rows.json"
    columns = min(len(models) + 1, 3)
    lines = -(-(len(models) + 1) // columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(4 * columns, 3.6 * lines), layout="constrained", squeeze=False
    )
    axes = grid.flatten()
    for axis in axes[len(models) + 1 :]:
        axis.remove()
    last = axes[len(models)]
    for axis, (model, by_name) in zip(axes, models.items(), strict=False):
        rows = result["rows"] // 4 if model == "text" else result["rows"]
        rates = {name: rows / statistics.median(run["work"] for run in runs) / 1e3 for name, runs in by_name.items()}
        names = list(rates)[::-1]
        axis.barh(names, [rates[name] for name in names], color=[COLOURS.get(name, OTHER) for name in names])
        if "limit" in rates:
            axis.axvline(rates["limit"], color="black", linewidth=0.8, linestyle="--", label="handwritten loop")
            axis.legend(fontsize=8, loc="lower right")
        axis.set_title(model)
        axis.set_xlabel("thousand rows a second (more is better)")
    if memory.exists():
        by_rows = json.loads(memory.read_text())["MiB by rows"]
        last.plot([int(rows) / 1e6 for rows in by_rows], list(by_rows.values()), "o-", color=COLOURS["scoreline"])
        last.set_ylim(0, 1.2 * max(by_rows.values()))
        last.set_xlabel("million rows in the job")
        last.set_title("private memory (anonymous) of a\nworker process, peak in MiB", fontsize=10)
    rounds = max(len(runs) for by_name in models.values() for runs in by_name.values())
    what = f"{result['rows']:,} rows, two processes, medians of {rounds} rounds"
    figure.suptitle(what + "\n" + "\n".join(textwrap.wrap(result["machine"], 150)), fontsize=9)
    figure.savefig(RESULTS / "benchmarks.png", dpi=110)


if __name__ == "__main__":
    main()
