"""``scoreline rejected``: shows why rows of a job were rejected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from scoreline.storage.wording import cut, plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo, echo_cut, echo_field

if TYPE_CHECKING:
    from scoreline.tasks.rejects.report import RejectedRows

_VALUE_CHARS = 40
_MESSAGE_CHARS = 160
_COLUMNS_SHOWN = 8
_SOURCES_SHOWN = 3
_LINES_SHOWN = 20
"""Maximum number of reasons, and of lines in each table. --json prints all of them."""


@click.command(
    cls=Command,
    epilog="""\
scoreline rejected nightly-20261125T020000Z
scoreline rejected nightly-20261125T020000Z --examples 10
scoreline rejected nightly-20261125T020000Z --json
""",
)
@click.argument("job")
@click.option(
    "--examples",
    type=click.IntRange(0, 1_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Show this many rows for each reason.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print all reasons, and all columns of the example rows, as JSON."
)
def rejected(job: str, examples: int, as_json: bool) -> None:
    """Show why rows of a job were rejected.

    Prints each reason for which rows of JOB were rejected, with the number of rows and examples. While the job is under
    way, only the completed parts are counted. Messages that differ only in a number or in quoted text count as one
    reason. Rows are numbered from 0 within their object. The folder _rejected/ of the results contains all rejected
    rows as Parquet files.

    After you have fixed the cause, `scoreline resume JOB --rejected` scores the rows again. This command needs the
    packages of ml-requirements.txt.
    """
    client = Client.from_env()
    found = client.rejected(job, examples=examples)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found, client.status(job))


def _show(found: RejectedRows, now: Status) -> None:
    echo(
        f"{found.job_id}: {found.rows:,} rejected, {now.rows:,} scored, of {plural(now.total_rows, 'row')}; {now.state}"
    )
    if now.error:
        echo_field("error", now.error)
    for reason in found.reasons[:_LINES_SHOWN]:
        where = f"{reason.stage}  {reason.column!r}" if reason.column else reason.stage
        click.echo()
        echo(f"{plural(reason.rows, 'row')}  {where}  {reason.message}", indent=2)
        for source, rows in list(reason.sources.items())[:_SOURCES_SHOWN]:
            echo(f"  {rows:,} of {source}")
        for example in reason.examples:
            message = _short(example.message, _MESSAGE_CHARS)
            echo(f"  row {example.row} of {example.source.rpartition('/')[2]}: {message}", indent=4)
            echo_cut(
                f"    {_line(example.columns) if example.record is None else _short(example.record, _MESSAGE_CHARS)}"
            )
    if len(found.reasons) > _LINES_SHOWN:
        click.echo(f"\n… and {plural(len(found.reasons) - _LINES_SHOWN, 'other reason')}; use --json to see all")
    for title, counts in ("column", found.columns), ("stage", found.stages), ("object", found.sources):
        if len(counts) > 1:
            _show_counts(title, counts)


def _show_counts(title: str, counts: Mapping[str, int]) -> None:
    click.echo(f"\nby {title}")
    for name, rows in list(counts.items())[:_LINES_SHOWN]:
        echo(f"  {rows:>12,}  {name}")
    if len(counts) > _LINES_SHOWN:
        click.echo(f"  {'…':>12}  and {len(counts) - _LINES_SHOWN:,} more; use --json to see all")


def _line(columns: Mapping[str, Any]) -> str:
    shown = {name: _short(value, _VALUE_CHARS) for name, value in list(columns.items())[:_COLUMNS_SHOWN]}
    hidden = len(columns) - _COLUMNS_SHOWN
    return json.dumps(shown, ensure_ascii=False) + (f" and {plural(hidden, 'more column')}" if hidden > 0 else "")


def _short(value: Any, chars: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return cut(" ".join(str(value).split()), chars)
