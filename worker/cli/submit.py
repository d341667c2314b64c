"""``scoreline submit``: submits a job, or tries a job without writing anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Unpack, cast

import click

from scoreline.storage.wording import cut, plural
from scoreline.tasks.backlog.prices import Prices
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.client import Client
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.job_options import job_options, read_files
from scoreline.worker.cli.output import echo, echo_field, print_table, table_widths, terminal_width
from scoreline.worker.cli.progress import follow_job
from scoreline.worker.memory import MIB, PROCESS_BYTES

if TYPE_CHECKING:
    from scoreline.tasks.steps.preflight import ChallengerCosts, Preflight

_NAMES_SHOWN = 12
_CELL_CHARS = 24
_COLUMNS_SHOWN = 8


@click.command(
    cls=Command,
    epilog="""\
scoreline submit churn@champion s3://bucket/in/ --watch
scoreline submit churn 's3://bucket/in/*.csv' --delimiter ';' --dry-run
scoreline submit churn s3://bucket/a.parquet s3://bucket/b.parquet \\
    --keep id,name --max-rejected 0
scoreline submit churn@champion --query customers --param day=2026-11-29
""",
)
@click.argument("model")
@click.argument("input", nargs=-1)
@job_options(SubmitOptions)
@click.option("--watch", "follow", is_flag=True, help="Show the progress until the job ends, as `scoreline watch`.")
@click.option(
    "--dry-run", is_flag=True, help="Plan the job and score a few rows in this process; write and send nothing."
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run, print the result as JSON.")
def submit(
    model: str, input: tuple[str, ...], follow: bool, dry_run: bool, as_json: bool, **options: Unpack[SubmitOptions]
) -> None:
    """Submit a job that scores objects with a model.

    MODEL is NAME, NAME@ALIAS or NAME@VERSION. INPUT is an object (s3://bucket/key), a prefix (s3://bucket/prefix/), a
    quoted glob, or several of these. The name of an object determines its format: Parquet, CSV, JSON Lines or Arrow
    IPC. CSV and JSON Lines may be compressed (.gz, .zst, .bz2, .xz). Folders with names such as year=2026/ become
    columns. With --query or --table, the rows of a database are scored, and there is no INPUT.

    Prints the id of the job. With --watch, also shows the progress of the job, and the exit code is the outcome of the
    job: 0 succeeded, 1 failed, 3 partial (some rows were rejected), 4 cancelled, 5 blocked (its checks object), 6 not
    known (Redis or the bucket does not answer). With --into, --watch goes on until the results are loaded. The exit
    code is 1 if they cannot be loaded, and 3 if the table refuses some rows.

    With --dry-run, prints the planned parts with the reason for their size, the work and the requests that the job
    takes, the columns, a scored sample, and the memory that a worker needs. If PRICES_FILE is set, also prints the
    costs. A dry run fails with the same error as the job would, and needs the packages of
    ml-requirements.txt.
    """
    options = cast(SubmitOptions, read_files(options))
    if not (input or options.get("query") or options.get("table")):
        raise click.UsageError("name an INPUT, or the rows of a database with --query or --table")
    client = Client.from_env()
    if dry_run:
        found = client.preflight(model, input, **options)
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=1))
        else:
            _show(found)
        return
    job = client.submit(model, input, **options)
    click.echo(job.job_id)
    if follow:
        sys.exit(follow_job(client, job.job_id))


def _show(found: Preflight) -> None:
    echo(f"{found.model}: {plural(found.rows, 'row')}; nothing was written or sent")
    echo_field("input", f"{plural(found.objects, 'object')}, {found.object_bytes / MIB:,.1f} MiB")
    echo_field("parts", f"{found.parts:,} of up to {plural(found.largest_part_rows, 'row')}")
    echo_field("why", found.cut)
    echo_field("reads", _reads(found))
    echo_field("work", _work(found))
    if found.expected.costs:
        echo_field("costs", Prices(currency=found.expected.currency).in_words(found.expected.costs))
    echo_field("features", _listed([f"{name} {found.types.get(name, '')}".strip() for name in found.features]))
    for label, names in (("kept", found.kept), ("unused", found.unused)):
        echo_field(label, _listed(names))
    echo_field("output", found.output)
    echo_field("columns", _listed([f"{name} {kind}" for name, kind in found.schema.items()]))
    echo_field("memory", _memory(found))
    if found.challenger is not None:
        echo_field("challenger", _challenger(found.challenger))
    for warning in found.warnings:
        echo_field("warning", warning)
    if found.sample:
        click.echo(f"\nfirst {plural(len(found.sample), 'row')}, scored:")
        _show_sample(found.sample)


def _show_sample(sample: Sequence[Mapping[str, Any]]) -> None:
    """Print as many columns of the scored rows as fit into the terminal, and the names of the other columns."""
    names = list(sample[0])
    headings = {name: cut(name, _CELL_CHARS) for name in names}
    cells = [[_cell(row[name]) for name in names] for row in sample]
    width = dict(zip(names, table_widths(list(headings.values()), cells), strict=True))
    shown = _fitting(names, width, terminal_width())
    print_table([headings[name] for name in shown], [[_cell(row[name]) for name in shown] for row in sample])
    if hidden := [name for name in names if name not in shown]:
        echo(f"not shown: {plural(len(hidden), 'column')}, {_some(hidden)}; --json shows all", indent=2)


def _fitting(names: Sequence[str], width: Mapping[str, int], terminal: int | None) -> list[str]:
    """Return the columns that fit, in their order. Choose equally many of the first and of the last columns."""
    left = len(names) // 2
    by_turns = [name for pair in zip_longest(names[:left], reversed(names[left:])) for name in pair if name is not None]
    chosen: list[str] = []
    for name in by_turns:
        used = sum(width[other] + 2 for other in chosen)
        if chosen and (len(chosen) == _COLUMNS_SHOWN or (terminal is not None and used + width[name] > terminal)):
            break
        chosen.append(name)
    return [name for name in names if name in chosen]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{', '.join(names[:_NAMES_SHOWN])}{more}"


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)}: {_some(names)}" if names else "none"


def _reads(found: Preflight) -> str:
    times = found.read_bytes / found.needed_bytes if found.needed_bytes else 1.0
    often = "once" if times < 1.005 else f"{times:.2f} times"
    how = f"with about {plural(found.requests, 'request')}" if found.requests else "when the job is planned"
    return f"{found.needed_bytes / MIB:,.1f} MiB {often}, {how}"


def _work(found: Preflight) -> str:
    expected = found.expected
    how = "by the pace of earlier jobs" if expected.pace_known else "guessed from a few rows"
    requests = f"{plural(expected.class_a, 'request')} that write or list, {expected.class_b:,} that read"
    return f"about {duration(expected.work_s)} of one process, {how}; {requests}"


def _memory(found: Preflight) -> str:
    work = found.part_bytes
    whole = PROCESS_BYTES + found.model_bytes + work
    return (
        f"about {whole / MIB:,.0f} MiB for each worker process: {PROCESS_BYTES / MIB:,.0f} for itself, "
        f"{found.model_bytes / MIB:,.0f} for the model, {work / MIB:,.0f} for the rows"
    )


def _challenger(found: ChallengerCosts) -> str:
    if found.failure:
        return f"{found.model} cannot score this input, so the job would go on without it: {found.failure}"
    more = f", and reads {_some(found.read)} for it" if found.read else ""
    memory = f"{found.model_bytes / MIB:,.0f} MiB for the model"
    return f"{found.model} adds about {duration(found.work_s)} of one process and {memory}{more}"


def _cell(value: Any) -> str:
    return cut(f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value), _CELL_CHARS)
