"""``scoreline rejected``: why rows of a job were set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status

if TYPE_CHECKING:
    from scoreline.tasks.rejects.report import RejectedRows

_VALUE_CHARS = 40
_MESSAGE_CHARS = 160
_COLUMNS_SHOWN = 8
_SOURCES = 3
_LINES = 20
"""Of reasons, and of each table: --json has the rest."""


@click.command()
@click.argument("job")
@click.option(
    "--examples",
    type=click.IntRange(0, 1_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Rows to show of each reason.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs: all reasons, and all columns of the examples.")
def rejected(job: str, examples: int, as_json: bool) -> None:
    """Show why rows of JOB were rejected: how many for which reason, and where they are.

    Rows whose messages differ in a number or a text in quotes alone are counted as one reason. Rows are numbered from 0
    within their object. The rows themselves are Parquet, in the folder _rejected/ of the results. Of a job that is
    under way, these are the ones so far. Needs ml-requirements.txt.

    `scoreline resume JOB --rejected` scores the rows again, once the cause is mended.
    """
    client = Client.from_env()
    found = client.rejected(job, examples=examples)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found, client.status(job))


def _show(found: RejectedRows, now: Status) -> None:
    click.echo(f"{found.job_id}: {found.rows:,} rejected, {now.rows:,} scored, of {now.total_rows:,} rows; {now.state}")
    if now.error:
        click.echo(f"  error  {now.error}")
    for reason in found.reasons[:_LINES]:
        where = f"{reason.stage}  {reason.column!r}" if reason.column else reason.stage
        click.echo(f"\n{reason.rows:,} rows  {where}  {reason.message}")
        for source, rows in list(reason.sources.items())[:_SOURCES]:
            click.echo(f"  {rows:,} of {source}")
        for example in reason.examples:
            message = _short(example.message, _MESSAGE_CHARS)
            click.echo(f"  row {example.row} of {example.source.rpartition('/')[2]}: {message}")
            click.echo(
                f"    {_line(example.columns) if example.record is None else _short(example.record, _MESSAGE_CHARS)}"
            )
    if len(found.reasons) > _LINES:
        click.echo(f"\n... and {len(found.reasons) - _LINES} other reasons: --json shows them")
    for title, counts in ("column", found.columns), ("stage", found.stages), ("object", found.sources):
        if len(counts) > 1:
            _show_counts(title, counts)


def _show_counts(title: str, counts: Mapping[str, int]) -> None:
    click.echo(f"\nby {title}")
    for name, rows in list(counts.items())[:_LINES]:
        click.echo(f"  {rows:>12,}  {name}")
    if len(counts) > _LINES:
        click.echo(f"  {'...':>12}  and {len(counts) - _LINES} others: --json shows them")


def _line(columns: Mapping[str, Any]) -> str:
    shown = {name: _short(value, _VALUE_CHARS) for name, value in list(columns.items())[:_COLUMNS_SHOWN]}
    more = f" and {len(columns) - _COLUMNS_SHOWN} columns more" if len(columns) > _COLUMNS_SHOWN else ""
    return json.dumps(shown, ensure_ascii=False) + more


def _short(value: Any, chars: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = " ".join(str(value).split())
    return text if len(text) <= chars else f"{text[:chars]}..."
