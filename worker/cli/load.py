"""``scoreline load``: loads accepted results into a table of a database."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.text import Text

from scoreline.storage.wording import printable
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import COMPLETE
from scoreline.tasks.job.load_options import MODES
from scoreline.tasks.job.loads import LoadRequest, LoadStatus
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.idle_hint import IdleHint
from scoreline.worker.cli.job_options import NAMES
from scoreline.worker.cli.output import echo
from scoreline.worker.cli.progress import EXIT_CODES, load_in_words, watch_loads


@click.command(
    cls=Command,
    epilog="""\
scoreline load nightly-20261125T020000Z --into scores --key customer_id
scoreline load s3://bucket/scores/ --into public.scores --key id \\
    --columns prediction,risk=proba_yes --watch
""",
)
@click.argument("job_or_output", metavar="JOB|OUTPUT")
@click.option("--into", required=True, metavar="[SCHEMA.]TABLE", help="Load into this table of the workers' database.")
@click.option("--key", type=NAMES, metavar="COL,COL", help="These columns identify a row of the table.")
@click.option(
    "--columns",
    type=NAMES,
    metavar="NAME,COL=NAME",
    help="Load these columns of the results besides the key. COL=NAME loads NAME into the column COL.  [default: all]",
)
@click.option(
    "--mode",
    type=click.Choice(tuple(MODES)),
    help="Change the rows that are there and insert the others; or append all rows; or replace the whole table at once."
    "  [default: upsert]",
)
@click.option("--create", is_flag=True, default=None, help="Create the table if it does not exist.")
@click.option(
    "--database",
    metavar="NAME",
    help="Load into the database of this name in DATABASES_FILE of the workers.  [default: RESULTS_DATABASE_URL]",
)
@click.option("--again", is_flag=True, help="Load all parts again, including those that were loaded before.")
@click.option("--older", is_flag=True, help="Replace the values of newer jobs, too.")
@click.option("--watch", "follow", is_flag=True, help="Show the progress until the load ends.")
def load(
    job_or_output: str,
    into: str,
    key: list[str] | None,
    columns: list[str] | None,
    mode: str | None,
    create: bool | None,
    database: str | None,
    again: bool,
    older: bool,
    follow: bool,
) -> None:
    """Load accepted results into a table of PostgreSQL.

    JOB is a job id. OUTPUT is the URI of an output, whose latest run is loaded. Workers load the rows, because only
    they know the database, and their ALLOWED_TABLES says which tables may be named. The same command again loads only
    what is missing. `scoreline status JOB` shows the state of each load of JOB.

    With --watch, the exit code is 0 if all rows are loaded, 3 if the table refused some of them, and 1 if the results
    could not be loaded. Ctrl-C ends this command, but not the load.
    """
    client = Client.from_env()
    now = client.load(
        job_or_output,
        into=into,
        key=key,
        columns=columns,
        mode=mode,
        create=create,
        database=database,
        again=again,
        older=older,
    )
    asked = LoadRequest.of_options(into=into, key=key, columns=columns, mode=mode, create=create, database=database)
    echo(f"{now.job_id}: the workers load its results into {asked.table}", err=True)
    if follow:
        sys.exit(_follow(client, now.job_id, asked.load_id))


def _follow(client: Client, job_id: str, load_id: str) -> int:
    """Show how far a load of a job is, until it has ended. Return the exit code."""
    shown: list[str] = []
    hint = IdleHint(lambda timeout_s: client.queue.workers(timeout_s=timeout_s))
    with Console(stderr=True).status("") as spinner:  # which only a terminal shows
        for job in watch_loads(client, job_id, load_id):
            loads = [load for load in job.loads if load.load_id == load_id]
            for line in [*map(load_in_words, loads), *_errors(loads)]:
                spinner.update(Text(printable(line)))
                if line not in shown:
                    echo(line)
                    shown.append(line)
            if loads and (said := hint.update(loads[0])):
                echo(said, err=True)
    if any(load.state != "loaded" for load in loads):
        if job.state not in COMPLETE:  # a person has withdrawn the results meanwhile
            echo(f"job {job_id} is {job.state}: its load does not go on")
        return EXIT_CODES["failed"]
    return EXIT_CODES["partial"] if any(load.set_aside for load in loads) else 0


def _errors(loads: list[LoadStatus]) -> list[str]:
    return [load.error for load in loads if load.error]
