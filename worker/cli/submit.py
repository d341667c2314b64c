"""``scoreline submit``: ask for a job, or try what it would do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from scoreline.storage.models.manifest import METHODS
from scoreline.storage.tables.options import FORMATS
from scoreline.tasks.client import Client
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
@click.option("--output", metavar="URI", help="Prefix of the results, s3://bucket/prefix/. [results/<model>/]")
@click.option("--method", type=click.Choice(METHODS), help="Only this method. [what is usual for the estimator]")
@click.option(
    "--keep",
    default="all",
    show_default=True,
    metavar="all|none|A,B",
    help="Input columns to carry over; all means those that are no features, nested ones left out: name "
    "what you want of them.",
)
@click.option(
    "--features", metavar="A,B", help="Columns to score, for a model without column names. [the numeric ones, in order]"
)
@click.option("--job-id", metavar="ID", help="The same id twice is one job. [made from the time]")
@click.option("--max-rejected", default="1%", show_default=True, metavar="N|P%", help="Rows that may be rejected.")
@click.option(
    "--part-rows",
    type=click.IntRange(1),
    metavar="N",
    help="Rows that a part aims at. [20 s of work, 262144 at most; 131072 at first]",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Times a part is begun before it fails, where its process dies each time.",
)
@click.option("--partition-by", metavar="COL", help="A kept column: a folder of results for each of its values.")
@click.option("--gather", is_flag=True, help="Make fewer, larger files of the parts once all are there.")
@click.option("--webhook", metavar="URL", help="Tell this address how the job ended. [WEBHOOK_URL]")
@click.option("--format", type=click.Choice(FORMATS), help="Of all objects. [as each one is named]")
@click.option("--delimiter", metavar="CHAR", help="Between fields of CSV; tab for a tab. [a comma; in .tsv a tab]")
@click.option("--quote", metavar="CHAR", default='"', show_default=True, help="Around fields of CSV; none for none.")
@click.option("--columns", metavar="A,B", help="Names of the columns of CSV, where objects have no header.")
@click.option(
    "--encoding", default="utf-8", show_default=True, metavar="NAME", help="Of CSV: latin-1, cp1252 and such."
)
@click.option("--null-values", metavar="A,B", help="Texts in CSV that stand for no number. [NA, NaN, null and such]")
@click.option(
    "--types",
    metavar="A=TYPE,B=TYPE",
    help="string, int64 or float64 for columns of text. [guessed from the first rows]",
)
@click.option("--watch", "follow", is_flag=True, help="Show progress until the job has ended.")
@click.option("--dry-run", is_flag=True, help="Plan it here and score a few rows; nothing is written or sent.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: for programs.")
def submit(
    model: str,
    input: tuple[str, ...],
    features: str | None,
    delimiter: str | None,
    quote: str,
    columns: str | None,
    null_values: str | None,
    types: str | None,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score INPUT with MODEL.

    MODEL is name, name@alias or name@version. INPUT is s3://bucket/key, s3://bucket/prefix/ or a quoted glob, or
    several of these. Objects are Parquet, CSV, JSON Lines (both also as .gz, .zst, .bz2) or Arrow IPC, as their names
    say. Folders named as year=2026/ are columns.

    --dry-run shows parts, columns, a scored sample and the memory that a worker needs; it fails where the job would,
    with the same message. It needs ml-requirements.txt.
    """
    client = Client.from_env()
    options |= {
        "features": _names(features),
        "columns": _names(columns),
        "null_values": _names(null_values),
        "types": _types(types),
        "delimiter": {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter),
        "quote": "" if quote == "none" else quote,
    }
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


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _types(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [item.rpartition("=") for item in text.split(",")]
    if not all(name and kind for name, _, kind in pairs):
        raise click.UsageError(f"--types {text!r} is not of the form column=type,column=type")
    return {name.strip(): kind.strip() for name, _, kind in pairs}


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
