"""Combines the commands of ``scoreline``, and prints expected errors without a traceback."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import logging
import os
import re
import sys

import click

from scoreline.storage.audit import run_as
from scoreline.storage.errors import InvalidRequest, InvalidSettings, ScorelineError
from scoreline.worker import logs
from scoreline.worker.cli import (
    alerts,
    audit,
    checks,
    dev,
    doctor,
    jobs,
    load,
    metrics,
    models,
    outcomes,
    rejected,
    report,
    results,
    retention,
    scale,
    schedule,
    submit,
    trace,
    web,
    workers,
)
from scoreline.worker.cli.explain import explain
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.output import echo
from scoreline.worker.version import __version__

_COLLECT_AFTER = 20_000
"""Number of new objects after which Python looks for garbage. By default it does so 700 times while a command imports
its packages, which takes a tenth of the time of a short command."""


def _skip_last_collection() -> None:
    """Do not look for garbage at the end of this process, which takes a quarter of the time of a short command."""
    gc.freeze()
    gc.disable()


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"scoreline, version {__version__}")
        context.exit()


@click.group(
    cls=Group,
    sections={
        "Jobs": ("submit", "status", "watch", "jobs", "rejected", "cancel", "resume"),
        "Results": ("results", "report", "accept", "reject", "outcomes", "trace", "load"),
        "Models": ("models", "checks"),
        "Schedules": ("schedule",),
        "Operations": ("doctor", "web", "workers", "scale", "metrics", "reconcile", "gc", "audit", "alerts"),
        "Local": ("demo", "dev"),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="""\
scoreline demo
scoreline models publish churn --model model.joblib --alias champion
scoreline submit churn@champion s3://bucket/in/ --watch
""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Score batches of rows with scikit-learn models from object storage.

    Settings are environment variables: R2_BUCKET is the name of the bucket, and REDIS_URL is the address of Redis.
    `scoreline demo` needs no settings.

    \b
    Exit codes:
      0    success
      1    an error, or a failed job
      2    a usage error, or an invalid setting
      3    a partial job: some rows were rejected
      4    a cancelled job
      5    a blocked job: its results are not accepted
      6    a job whose state is not known
      130  interrupted with Ctrl-C
    """
    context.call_on_close(run_as("CLI"))
    is_doctor = context.invoked_subcommand == "doctor"  # the doctor reports invalid settings itself
    with contextlib.suppress(*(InvalidSettings,) if is_doctor else ()):
        logs.set_up(os.environ, logging.WARNING)


cli.add_command(models.models)
cli.add_command(checks.checks)
cli.add_command(submit.submit)
cli.add_command(load.load)
cli.add_command(jobs.status)
cli.add_command(jobs.watch)
cli.add_command(jobs.jobs)
cli.add_command(rejected.rejected)
cli.add_command(jobs.cancel)
cli.add_command(jobs.resume)
cli.add_command(jobs.reconcile)
cli.add_command(results.results)
cli.add_command(report.report)
cli.add_command(results.accept)
cli.add_command(results.reject)
cli.add_command(outcomes.outcomes)
cli.add_command(trace.trace)
cli.add_command(schedule.schedule)
cli.add_command(workers.workers)
cli.add_command(web.web)
cli.add_command(scale.scale)
cli.add_command(metrics.metrics)
cli.add_command(audit.audit)
cli.add_command(alerts.alerts)
cli.add_command(doctor.doctor)
cli.add_command(retention.gc)
cli.add_command(dev.dev)
cli.add_command(dev.demo)


def _show_error(error: ScorelineError) -> None:
    """Print an error on one line; of a file with faults, each fault on a line of its own."""
    first, *faults = _FAULTS.split(str(error)) if isinstance(error, InvalidRequest) else [""]
    echo(f"error: {' '.join(first.split()) if faults else explain(error)}", err=True)
    for fault in faults:
        echo(f"  {' '.join(fault.split())}", indent=4, err=True)


_FAULTS = re.compile(r"\n  (?=line [0-9]+: )")


def main() -> None:
    """Run a command. For an expected error, print one line instead of a traceback, and set the exit code."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER)
    atexit.register(_skip_last_collection)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show(shown := io.StringIO())
        for line in shown.getvalue().splitlines():
            echo(line, err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ScorelineError as error:
        _show_error(error)
        sys.exit(2 if isinstance(error, (InvalidRequest, InvalidSettings)) else 1)
    finally:
        gc.set_threshold(*before)
