"""Turns the stored figures into tables in Markdown. All files are in the folder `benchmarks.measure.RESULTS`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import work
from benchmarks.measure import RESULTS, shown, verdict
from benchmarks.turn import OURS, THEIRS
from scoreline.tasks.scoring.timings import TIMINGS

_ROUNDS = 3
"""Minimum number of rounds. With fewer rounds, the table states their number."""
Runs = Sequence[Mapping[str, Any]]
LIMITS: dict[tuple[str, str], dict[str, float]] = {
    ("scoreline", "limit"): {
        "logistic": 1.3,
        "boosting": 0.45,
        "gradient-boosting": 0.5,
        "forest": 0.4,
        "deep-forest": 0.5,
        "text": 0.5,
    },
    ("scoreline", "daskdistributed"): dict.fromkeys(work.MODELS, 0.4),
    ("scoreline", "raydata"): dict.fromkeys(work.MODELS, 0.4),
    ("scoreline", "spark"): dict.fromkeys(work.MODELS, 0.4),
    ("scoreline_s3", "scoreline"): dict.fromkeys(work.MODELS, 1.25),
}
"""Maximum ratios, by the two contenders that are compared, and by model."""


_LEGEND = (
    "- *work*: seconds from the order to the last result, after a rehearsal of the same work. For Scoreline: from "
    "before `submit` until the outcome is in the bucket.",
    "- *whole*: the same, plus starting all processes, loading the model and rehearsing; for Scoreline also "
    "publishing the model, and copying the input into the store and the results out of it.",
    "- *limit*: the fastest straightforward handwritten loop, in two processes. *script*: pandas, in one process. "
    "*futures*: `concurrent.futures` over files. *scoreline_s3*: Scoreline on the S3 server, which shares the cores.",
)
_STAGES_LEGEND = (
    "*queue* is the time between two parts. *decode* includes fetching and runs beside *align* and *predict*; the last "
    "column counts the longer of these. *queue* and *upload* of the last part of each process are not included."
)


def throughput(result: Mapping[str, Any]) -> str:
    """Return the tables of seconds, ratios and timings, in Markdown."""
    rows, took, left_out = result["rows"], _in_order(result["seconds"]), result["left out"]
    rounds = max((len(runs) for by_name in took.values() for runs in by_name.values()), default=0)
    notes = [f"- **{name}** was left out: {_cell(reason)}" for name, reason in left_out.items()]
    notes += _incomplete(result)
    lines = [
        "# Throughput",
        "",
        f"{result['machine']}.",
        *(f"Continued {when}." for when in result.get("continued", ())),
        "",
        f"{rows:,} rows of 20 float64 columns ({rows // 4:,} texts) in {work.FILES} Parquet files, "
        f"{work.PROCESSES} processes. Contenders take turns; rounds: {rounds}. Times are "
        "medians, and ratios are taken within a round. Less is better, except for rows/s.",
        "",
        *_LEGEND,
        "",
        *notes,
        *([""] if notes else []),
    ]
    for model, by_name in took.items():
        lines += seconds(model, by_name, rows // 4 if model == "text" else rows)
    lines += [f"| ratio of work, rounds: {rounds} | model | at most | median (spread) | |", "|---|---|---|---|---|"]
    for (name, other), limits in LIMITS.items():
        for model, most in limits.items():
            by_name = took.get(model, {})
            if {name, other} <= set(by_name):
                lines.append(_ratio(name, other, model, most, by_name))
            elif model in took and (reason := left_out.get(name) or left_out.get(other)):
                lines.append(f"| {name} / {other} | {model} | {most} | not measured: {_cell(reason)} | |")
    lines += ["", *_stages(took), "", _STAGES_LEGEND, "", *_equality(result["largest difference"])]
    return "\n".join(lines) + "\n"


def _incomplete(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each model of which turns are missing, because the run goes on or was stopped."""
    for model, asked in result.get("asked", {}).items():
        found = {
            name: len(result["seconds"].get(model, {}).get(name, ()))
            for name in asked
            if name not in result["left out"]
        }
        if any(number < asked[name] for name, number in found.items()):
            counts = ", ".join(f"{name} {number} of {asked[name]}" for name, number in found.items())
            yield f"- **{model}** is not complete. Rounds so far: {counts}."


def _in_order(took: Mapping[str, Mapping[str, Runs]]) -> dict[str, dict[str, Runs]]:
    """Return models and contenders in the order of their lists, and not in the order of measurement."""
    return {
        model: {name: took[model][name] for name in OURS + THEIRS if name in took[model]}
        for model in work.MODELS
        if took.get(model)
    }


def seconds(model: str, by_name: Mapping[str, Runs], count: int) -> Iterator[str]:
    """Yield a table of how long each contender took for `count` rows."""
    yield f"### {model}\n"
    rounds = max(map(len, by_name.values()), default=0)
    yield f"| rounds: {rounds} | work, s | spread | whole, s | rows/s | work / limit |\n|---|---|---|---|---|---|"
    limit = [run["work"] for run in by_name.get("limit", ())]
    for name, runs in by_name.items():
        took = [run["work"] for run in runs]
        median, whole = statistics.median(took), statistics.median(run["whole"] for run in runs)
        ratios = [one / other for one, other in zip(took, limit, strict=False)]
        against = f"{statistics.median(ratios):.2f}" if ratios else ""
        spread = f"{min(took):.2f} to {max(took):.2f}"
        yield f"| {name} | {median:.2f} | {spread} | {whole:.1f} | {count / median:,.0f} | {against} |"
    yield ""


def _ratio(name: str, other: str, model: str, most: float, by_name: Mapping[str, Runs]) -> str:
    pairs = list(zip(by_name[name], by_name[other], strict=False))
    ratios = [(one["work"] - _explained(one)) / two["work"] for one, two in pairs]
    called, shown = f"{name} / {other}", _spread(ratios)
    if name == "scoreline_s3":
        called += ", without half of the S3 server's CPU"
        bare = [(one["work"] - one["server_cpu"]) / two["work"] for one, two in pairs]
        shown += f"; without all of it {_spread(bare)}; with it "
        shown += _spread([one["work"] / two["work"] for one, two in pairs])
    said = verdict(statistics.median(ratios), most)
    if len(ratios) < _ROUNDS:
        said += f", from only {len(ratios)}"
    return f"| {called} | {model} | {most} | {shown} | {said} |"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _explained(run: Mapping[str, Any]) -> float:
    """Return by how many seconds the S3 server delayed the workers, which would otherwise use both cores.

    If the workers only waited for the server, the delay would be longer: all CPU seconds of the server.
    """
    return float(run.get("server_cpu", 0)) / work.PROCESSES


def _stages(took: Mapping[str, Mapping[str, Runs]]) -> Iterator[str]:
    """Yield a table of the last run: milliseconds per part by timing, and the used fraction of the processes' time."""
    yield "| ms a part, by timing, last round | parts | " + " | ".join(TIMINGS) + " | share of the 2 processes' time |"
    yield "|" + "---|" * (len(TIMINGS) + 3)
    for name in ("scoreline", "scoreline_s3"):
        for model, by_name in took.items():
            if name not in by_name:
                continue
            run = by_name[name][-1]
            stages, parts = run["stages"], run["stages"]["parts"]
            each = " | ".join(f"{1e3 * stages[stage] / parts:.1f}" for stage in TIMINGS)
            share = _busy(stages) / (work.PROCESSES * run["job_seconds"])
            yield f"| {name}, {model} | {parts} | {each} | {share:.0%} |"


def _busy(stages: Mapping[str, float]) -> float:
    """Return the seconds of all timings together.

    Rows are decoded while other rows are aligned and predicted, so only the longer of these two times is included.
    """
    beside = max(stages["decode"], stages["align"] + stages["predict"])
    return beside + stages["encode"] + stages["upload"] + stages["queue"]


def _equality(apart: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    if not any(apart.values()):
        yield "Results were not compared with those of the script."
        return
    yield "Compared with the results of the script, ids and predictions are equal. Largest difference of a probability:"
    for model, by_name in apart.items():
        yield f"- {model}: " + ", ".join(f"{name} {value:.2g}" for name, value in by_name.items())


def claims() -> str:
    """Return a table of the benchmarks that have a single figure, and a table of `bench_engine`."""
    lines = [
        "# Figures",
        "",
        "Medians, with the spread and the number of runs. [Throughput](throughput.md) has tables of its own.",
        "",
    ]
    lines += ["![throughput and memory](benchmarks.png)", "", "| figure | measured | target | |", "|---|---|---|---|"]
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        if "values" in result:
            lines.append(f"| {result['what']} | {shown(result['values'])} | {result['limit']} | {result['verdict']} |")
    by_parts = RESULTS / "engine-by-parts.json"
    if by_parts.exists():
        result = json.loads(by_parts.read_text())
        lines += ["", *engine(result["limits"], {int(size): found for size, found in result["by parts"].items()})]
    return "\n".join(lines) + "\n"


def engine(limits: Mapping[str, float], by_parts: Mapping[int, Mapping[str, float]]) -> Iterator[str]:
    """Yield a table with the costs of a part, by the number of parts in the job."""
    yield (
        "| jobs with parts of one row and a model that does nothing | target | "
        + " | ".join(f"{size:,}" for size in by_parts)
        + " |"
    )
    yield "|---|---|" + "---|" * len(by_parts)
    for name in next(iter(by_parts.values())):
        got = " | ".join(f"{found[name]:,.2f}" for found in by_parts.values())
        yield f"| {name} | {limits.get(name, '')} | {got} |"


def main() -> None:
    """Write the tables again."""
    text = claims()
    if (RESULTS / "throughput.json").exists():
        (RESULTS / "throughput.md").write_text(throughput(json.loads((RESULTS / "throughput.json").read_text())))
    (RESULTS / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
