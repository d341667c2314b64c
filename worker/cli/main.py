"""``scoreline``: the commands, and how their errors look."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

import click

from scoreline.storage.errors import (
    InvalidRequest,
    InvalidSettings,
    LedgerUnavailable,
    QueueUnavailable,
    ScorelineError,
    describe,
)
from scoreline.storage.ledger.redis_ledger import address
from scoreline.tasks.dispatch.settings import DEFAULT_REDIS_URL, QueueSettings
from scoreline.worker import logs
from scoreline.worker.cli import dev, doctor, jobs, metrics, models, rejected, schedule, submit, workers
from scoreline.worker.version import __version__


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"scoreline, version {__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
@click.pass_context
def cli(context: click.Context) -> None:
    """Score batches of rows with scikit-learn models that live in object storage.

    \b
    Try it with nothing installed but this:   scoreline demo
    Score your own data:                      scoreline models publish churn --model model.joblib --alias champion
                                              scoreline submit churn@champion s3://bucket/in/ --watch

    Exit codes: 0 succeeded, 1 failed, 2 usage, 3 partial (some rows were rejected), 4 cancelled.
    """
    with contextlib.suppress(*(InvalidSettings,) if context.invoked_subcommand == "doctor" else ()):  # it reports that
        logs.set_up(os.environ, logging.WARNING)


cli.add_command(models.models)
cli.add_command(submit.submit)
cli.add_command(jobs.status)
cli.add_command(jobs.watch)
cli.add_command(jobs.jobs)
cli.add_command(rejected.rejected)
cli.add_command(jobs.cancel)
cli.add_command(jobs.resume)
cli.add_command(jobs.reconcile)
cli.add_command(schedule.schedule)
cli.add_command(workers.workers)
cli.add_command(metrics.metrics)
cli.add_command(doctor.doctor)
cli.add_command(dev.dev)
cli.add_command(dev.demo)


def main() -> None:
    """Run a command; an expected error is one line and an exit code, never a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ScorelineError as error:
        click.echo(f"error: {describe(error)}{_assumed(error)}", err=True)
        sys.exit(2 if isinstance(error, (InvalidRequest, InvalidSettings)) else 1)


def _assumed(error: ScorelineError) -> str:
    """Say where an address comes from that nobody set, where nothing answers there."""
    nothing_there = isinstance(error, LedgerUnavailable | QueueUnavailable) and address(DEFAULT_REDIS_URL) in str(error)
    if nothing_there and QueueSettings.from_env(os.environ).assumed:
        return f" (REDIS_URL is not set, so {DEFAULT_REDIS_URL} was tried)"
    return ""
