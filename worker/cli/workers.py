"""``scoreline workers``: lists the workers that answer."""

from __future__ import annotations

import os
import sys

import click

from scoreline.tasks.dispatch.connections import Connections
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo


@click.command(
    cls=Command,
    epilog="""\
scoreline workers
scoreline workers celery@$HOSTNAME --timeout 15  # as a health check
""",
)
@click.argument("name", required=False)
@click.option(
    "--timeout",
    "timeout_s",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait this many seconds for answers.",
)
def workers(name: str | None, timeout_s: float) -> None:
    """List the workers that answer.

    With NAME (celery@host), ask that worker alone. As a health check this takes a fifth of the time and memory of
    `celery -A scoreline inspect ping`, which imports everything that a worker needs to score.

    The exit code is 1 if no worker answers.
    """
    found = Connections(os.environ).queue.workers(name, timeout_s)
    for worker in found:
        click.echo(worker)
    if not found:
        echo(f"{f'{name} does not answer' if name else 'no worker answers'} within {timeout_s:g} s", err=True)
    sys.exit(not found)
