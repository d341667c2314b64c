"""Writes the figures of `benchmarks.bench_shapes` as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import verdict
from benchmarks.shapes import SHAPES
from benchmarks.work import PROCESSES

Entry = dict[str, Any]
Run = Mapping[str, Any]
_GROUP_MB = 160.0
"""Size of the row group for which the request limit is defined. The number of requests for a larger row group is scaled
to this size."""
_STORES = {"directory": "directory", "s3": "S3 server beside it", "slow": "S3 server, 30 ms a request"}
_STAGES = ("plan", "decode", "align", "predict", "encode", "upload", "queue")
_TIMES = (
    *("shape", "model", "store", "job, s", "by hand, s", "way", "CPU, s", "CPU by hand, s", "job / by hand", "at most"),
    *("", "rounds", "parts", "MB of a process", "at most", "", "commit"),
)
_COUNTS = (
    *("shape", "MB needed", "MB read", "read / needed", "at most", "", "requests of", "number", "at most", ""),
    *("all requests of parts", "of planning", "MB of planning", "other requests", "commit"),
)
_TIMES_LEGEND = (
    "Seconds are medians. Ratios are taken within a round: median and spread. *Way* is how the loop by hand divides "
    "the work: *units*, each process takes every second object or row group, and fetches no other; *whole*, each takes "
    "every second one too, but both get whole objects; *twice*, both decode all and score half; "
    "*halves*, both parse half of the lines; *alone*, one process does everything. The fastest is measured. Memory is "
    "the peak of resident memory, of all rounds."
)
_COUNTS_LEGEND = (
    "As the S3 server sees them, for a job of a linear model whose pace is known. *MB needed* are the columns of the "
    "input, *MB read* what parts read of it, with footers. Requests of a row group are those for the one with most, in "
    "proportion to 160 MB if it is larger; requests of a file include planning. *Other requests* are listings, "
    "documents, results, and the benchmark's own questions whether the job has ended."
)
_STAGES_LEGEND = (
    "Seconds of both processes together, medians. *plan* is from submit until the plan is there. *decode* includes "
    "fetching, and runs beside *align* (which includes checking), *predict* and *encode*. *queue* is between two parts "
    "of a process. *idle* is the time in which the processes did not compute."
)


def with_machines(kept: Mapping[str, Any]) -> dict[str, Entry]:
    """Return the figures of earlier runs, except figures without a known machine.

    Files of earlier commits have one machine for all figures, under a key of its own.
    """
    of_all = kept.get("machine", {}).get("described")
    found = {key: {"machine": of_all} | entry for key, entry in kept.items() if key != "machine"}
    return {key: entry for key, entry in found.items() if entry["machine"]}


def tables(took: Mapping[str, Entry]) -> str:
    """Return the tables of times and of requests."""
    lines = ["# Shapes of inputs", "", *(f"- {machine}" for machine in _machines(took)), ""]
    lines += [*_head(_TIMES), *_times(took), "", _TIMES_LEGEND, ""]
    lines += [*_head(_COUNTS), *_counts(took), "", _COUNTS_LEGEND, ""]
    return "\n".join(lines)


def short(took: Mapping[str, Entry]) -> str:
    """Return a table for the documentation: the jobs with a linear model, for each typical input."""
    lines = _head(("input", "store", "job", "loop by hand", "its way", "job / loop", "memory of a process", "commit"))
    for key, entry in _in_order(took, "job"):
        name, model, store = key.split()
        if model == "linear" and entry["share"] == 1 and entry["byhand"]:
            ours, theirs = entry["job"], entry["byhand"]
            ratio = statistics.median(one["work"] / other["work"] for one, other in zip(ours, theirs, strict=True))
            seconds = [f"{_median(run['work'] for run in runs):.2f} s" for runs in (ours, theirs)]
            memory = max(run["memory_mb"] for run in ours)
            cells = [*seconds, entry["way"], f"{ratio:.2f}", f"{memory:.0f} MB", _commit(entry)]
            lines.append(_row([SHAPES[name].described, _STORES[store], *cells]))
    return "\n".join(lines) + "\n"


def line(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the seconds of the last round."""
    ours = runs["job"][-1]
    stages = " ".join(f"{stage} {seconds:.2f}" for stage, seconds in ours["stages"].items())
    byhand = "".join(
        f"by hand {theirs['work']:.2f} s (CPU {theirs['cpu']:.2f}), ratio {ours['work'] / theirs['work']:.2f}, "
        for theirs in runs["byhand"][-1:]
    )
    return (
        f"job {ours['work']:.2f} s (CPU {ours['cpu']:.2f}), {byhand}parts {ours['parts']}, "
        f"{ours['memory_mb']:.0f} MB; {stages}"
    )


def stages(took: Mapping[str, Entry], before: Mapping[str, Entry]) -> Iterator[str]:
    """Yield a table of seconds by timing, in which figures of another commit come before those of this commit."""
    yield from _head(("shape", "model", "store", "commit", "job, s", *_STAGES, "idle", "CPU, s", "MB of a process"))
    for key, entry in _in_order(took, "job"):
        for found in (before.get(key), entry):
            if found is None or "job" not in found:
                continue
            runs = found["job"]
            middle = {stage: _median(run["stages"].get(stage, 0.0) for run in runs) for stage in _STAGES}
            idle = _median(max(PROCESSES * run["work"] - run["cpu"], 0.0) for run in runs)
            seconds = [
                _median(run["work"] for run in runs),
                *middle.values(),
                idle,
                _median(run["cpu"] for run in runs),
            ]
            memory = max(run["memory_mb"] for run in runs)
            yield _row([*key.split(), _commit(found), *(f"{value:.2f}" for value in seconds), f"{memory:.0f}"])
    yield ""
    yield _STAGES_LEGEND


def _times(took: Mapping[str, Entry]) -> Iterator[str]:
    for key, entry in _in_order(took, "job"):
        name, model, store = key.split()
        ours, theirs, shape = entry["job"], entry["byhand"], SHAPES[name]
        memory = max(run["memory_mb"] for run in ours)
        work, cpu = (
            [f"{_median(run[of] for run in runs):.2f}" if runs else "" for runs in (ours, theirs)]
            for of in ("work", "cpu")
        )
        yield _row(
            [
                *(_called(name, entry), model, store, *work, entry["way"], *cpu),
                *_ratio(ours, theirs, shape.limits.get((store, model))),
                *(f"{len(ours)}", f"{ours[-1]['parts']}"),
                *(f"{memory:.0f}", f"{shape.memory_mb}", verdict(memory, shape.memory_mb), _commit(entry)),
            ]
        )


def _ratio(ours: Sequence[Run], theirs: Sequence[Run], limit: float | None) -> tuple[str, str, str]:
    """Return the median ratio of the rounds with its spread, its limit, and whether the limit is met."""
    if not theirs:
        return "", "", ""
    ratios = [one["work"] / other["work"] for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", *_limited(ratio, limit)


def _counts(took: Mapping[str, Entry]) -> Iterator[str]:
    for key, entry in _in_order(took, "traffic"):
        name = key.split()[0]
        shape, found = SHAPES[name], entry["traffic"]
        read = found["read_mb"] / entry["needed_mb"]
        what, number = requests(entry)
        yield _row(
            [
                *(_called(name, entry), f"{entry['needed_mb']:.0f}", f"{found['read_mb']:.0f}", f"{read:.2f}"),
                *_limited(read, shape.most_read),
                *(what, f"{number:.3g}", *_limited(number, shape.most_requests)),
                *(f"{found['read_requests']:,}", f"{found['plan_requests']:,}", f"{found['plan_mb']:.0f}"),
                *(f"{found['other_requests']:,}", _commit(entry)),
            ]
        )


def requests(entry: Entry) -> tuple[str, float]:
    """Return what the limit of requests of a typical input refers to, and the number of requests that were counted."""
    found = entry["traffic"]
    if entry["objects"] > 1:
        return "a file", (found["read_requests"] + found["plan_requests"]) / entry["objects"]
    if not entry["largest_group_mb"]:
        return "the object", found["read_requests"]
    larger = max(entry["largest_group_mb"] / _GROUP_MB, 1.0)
    return ("a row group" if larger == 1 else "160 MB of a row group"), found["group_requests"] / larger


def _limited(value: float, limit: float | None) -> tuple[str, str]:
    return (f"{limit:g}", verdict(value, limit)) if limit else ("", "")


def _in_order(took: Mapping[str, Entry], has: str) -> Iterator[tuple[str, Entry]]:
    """Yield the entries with one kind of figures, in the order of `SHAPES` and not in the order of measurement."""
    names = list(SHAPES)
    found = [(key, entry) for key, entry in took.items() if has in entry and key.split()[0] in names]
    yield from sorted(found, key=lambda item: (names.index(item[0].split()[0]), item[0]))


def _called(name: str, entry: Entry) -> str:
    return name if entry["share"] == 1 else f"{name}, {entry['share']:.0%} of it"


def _machines(took: Mapping[str, Entry]) -> list[str]:
    """Return a line for each machine on which figures were measured, with the commit, the day and the load."""
    return sorted({str(entry["machine"]) for entry in took.values() if "machine" in entry})


def _commit(entry: Entry) -> str:
    return str(entry.get("commit", ""))


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|---" * len(cells) + "|"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
