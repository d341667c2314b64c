"""``scoreline workers``: lists the workers that answer."""

from __future__ import annotations

import os
import sys

import click

from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.dispatch.messages import MessageQueue
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

    With NAME (celery@host), query only that worker, as a health check. Such a query takes a fifth of the time and
    memory of `celery -A scoreline inspect ping`.

    The exit code is 1 if no worker answers, or if the worker NAME has no process.
    """
    queue = Connections(os.environ).queue
    if name:
        _check(queue, queue.names.jobs, name, timeout_s)
        return
    found = queue.workers(timeout_s=timeout_s)
    for worker in found:
        echo(worker)
    if not found:
        echo(f"no worker answers within {timeout_s:g} s", err=True)
    sys.exit(not found)


def _check(queue: MessageQueue, jobs: str, name: str, timeout_s: float) -> None:
    """Exit with code 1 unless the worker `name` answers, reads the queue `jobs`, and has a process.

    The worker is queried only once, because the time limit of a container's health check is hardly longer than
    `timeout_s`.
    """
    answer = queue.ask_workers("gauges", timeout_s, name).get(name)
    if not isinstance(answer, dict) or answer.get("queue", jobs) != jobs:
        echo(f"{name} does not answer within {timeout_s:g} s", err=True)
    elif not answer.get("processes"):
        echo(f"{name} answers, but has no process that could score: restart it", err=True)
    else:
        echo(name)
        return
    sys.exit(1)
