"""``scoreline workers``."""

from __future__ import annotations

import os
import sys

import click

from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.settings import QueueSettings


@click.command()
@click.argument("name", required=False)
@click.option(
    "--timeout",
    "timeout_s",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds to wait for answers.",
)
def workers(name: str | None, timeout_s: float) -> None:
    """List the workers that answer, or only NAME, as celery@host; the exit code is 1 where none does.

    For health checks: `celery -A scoreline inspect ping` takes five times the time and memory, since it loads all
    that a worker needs to score.
    """
    settings = QueueSettings.from_env(os.environ)
    found = Queue(settings.broker_url, settings.broker_tls).workers(name, timeout_s)
    for worker in found:
        click.echo(worker)
    if not found:
        click.echo(f"{f'{name} does not answer' if name else 'no worker answers'} within {timeout_s:g} s", err=True)
    sys.exit(not found)
