"""``scoreline submit``: ask for a job, or try what it would do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Unpack

import click
from rich.table import Table

from scoreline.tasks.client import Client
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.worker.cli.job_options import job_options
from scoreline.worker.cli.jobs import console, follow_job
from scoreline.worker.memory import MIB, PROCESS_BYTES

if TYPE_CHECKING:
    from scoreline.tasks.steps.preflight import Preflight

_NAMES_SHOWN = 12
_CELL_CHARS = 24
_COLUMNS_SHOWN = 8


@click.command()
@click.argument("model")
@click.argument("input", nargs=-1, required=True)
@job_options(SubmitOptions)
@click.option("--watch", "follow", is_flag=True, help="Show progress until the job has ended.")
@click.option("--dry-run", is_flag=True, help="Plan the job and score a few rows here; write and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run, print JSON.")
def submit(
    model: str, input: tuple[str, ...], follow: bool, dry_run: bool, as_json: bool, **options: Unpack[SubmitOptions]
) -> None:
    """Score INPUT with MODEL.

    MODEL is name, name@alias or name@version. INPUT is s3://bucket/key, s3://bucket/prefix/ or a quoted glob, or
    several of these. Objects are Parquet, CSV, JSON Lines (both also as .gz, .zst, .bz2) or Arrow IPC, as their names
    say. Folders named as year=2026/ are columns.

    --dry-run shows parts, columns, a scored sample and the memory that a worker needs; it fails where the job would,
    with the same message. It needs ml-requirements.txt.
    """
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
    line = "  {:9}{}".format
    click.echo(f"{found.model}: {found.rows:,} rows; nothing was written or sent")
    click.echo(line("input", f"{found.objects:,} objects, {found.object_bytes / MIB:,.1f} MiB"))
    click.echo(line("parts", f"{found.parts:,} of up to {found.largest_part_rows:,} rows"))
    for what, names in (("features", found.features), ("kept", found.kept), ("unused", found.unused)):
        click.echo(line(what, _listed(names)))
    click.echo(line("output", found.output))
    click.echo(line("columns", _listed([f"{name} {kind}" for name, kind in found.schema.items()])))
    click.echo(line("memory", _memory(found)))
    for warning in found.warnings:
        click.echo(line("warning", warning))
    if found.sample:
        click.echo(f"\nthe first {len(found.sample)} rows, scored:")
        console().print(_sample(found))


def _listed(names: Any) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_NAMES_SHOWN])}{more}" if names else "none"


def _memory(found: Preflight) -> str:
    work = found.part_bytes
    whole = PROCESS_BYTES + found.model_bytes + work
    return (
        f"about {whole / MIB:,.0f} MiB a worker process: {PROCESS_BYTES / MIB:,.0f} by itself, "
        f"{found.model_bytes / MIB:,.0f} the model, {work / MIB:,.0f} the rows"
    )


def _sample(found: Preflight) -> Table:
    """Show the first and the last columns: kept ones and scores."""
    names = list(found.sample[0])
    if len(names) > _COLUMNS_SHOWN:
        half = _COLUMNS_SHOWN // 2
        names = [*names[:half], *names[-half:]]
    table = Table(box=None)
    for name in names:
        table.add_column(name[:_CELL_CHARS], no_wrap=True)
    for row in found.sample:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"
