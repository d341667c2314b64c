"""``scoreline scale``: says how many dynos finish the work in time, and sets their number on Heroku."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import click

from scoreline.storage.errors import InvalidSettings, ScorelineError
from scoreline.tasks.backlog.dynos import IDLE_S, Policy
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.worker.cli.explain import explain
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.moments import Duration
from scoreline.worker.cli.output import echo
from scoreline.worker.heroku.formation import Formation
from scoreline.worker.heroku.scaler import CountedWorkers, Dynos, Look, Scaler, in_words
from scoreline.worker.heroku.settings import HerokuSettings

_LONGEST_TASK_S = 700.0


@click.command(
    cls=Command,
    epilog="""\
scoreline scale --finish-within 10m
scoreline scale --min 0 --max 10 --finish-within 10m --apply
scoreline scale --max 10 --finish-within 1h --apply --every 1m  # in a dyno
""",
)
@click.option(
    "--worker-type", metavar="NAME", default="worker", show_default=True, help="Process type in the Procfile to scale."
)
@click.option(
    "--min",
    "least",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of dynos while there is no work.",
)
@click.option(
    "--max",
    "most",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="Maximum number of dynos.",
)
@click.option(
    "--finish-within",
    "finish_within_s",
    type=Duration(),
    required=True,
    metavar="DURATION",
    help="Each job should end within this time after its submission, such as 10m or 2h.",
)
@click.option(
    "--idle-for",
    "idle_after_s",
    type=Duration(),
    default=IDLE_S,
    metavar="DURATION",
    help="Remove dynos after this time without work.  [default: 5m]",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Processes of a dyno.  [default: as many as workers have reported]",
)
@click.option("--apply", is_flag=True, help="Set the number of dynos on Heroku, instead of only printing it.")
@click.option("--every", "every_s", type=Duration(), metavar="DURATION", help="Look again and again, until SIGTERM.")
def scale(
    worker_type: str,
    least: int,
    most: int,
    finish_within_s: float,
    idle_after_s: float,
    processes: int | None,
    apply: bool,
    every_s: float | None,
) -> None:
    """Scale the workers with the work that is left.

    Says how many dynos finish all jobs in time. The number follows from the rows that are left, the pace of each model
    version in earlier jobs, and the processes of a dyno. Jobs with a deadline also end before it. With --apply, sets
    this number on Heroku. This needs HEROKU_API_KEY and HEROKU_APP_NAME; without them, the running workers are counted.

    Dynos are added at once. They are removed all together, when there has been no work for a while (--idle-for): no
    part, no plan, no message. Heroku chooses which dyno it stops, so no dyno is removed while there is work.

    With --min 0 and --apply, this command also submits the jobs of due schedules while no worker runs.

    With --every, continues after transient errors of Heroku, Redis and the bucket. The exit code is 1 if Heroku refuses
    a request, or without --every, if a service does not answer.
    """
    if least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}")
    settings = HerokuSettings.from_env(os.environ)
    if apply and not settings.given:
        missing = [
            name
            for name, value in (("HEROKU_API_KEY", settings.api_key), ("HEROKU_APP_NAME", settings.app))
            if not value
        ]
        raise InvalidSettings(f"{' and '.join(missing)} must be set for --apply")
    client = Client.from_env()
    scaler = Scaler(
        dynos=Formation(settings, worker_type) if settings.given else _counted(client),
        main=client.buckets.main,
        ledger=client.ledger,
        waiting=_waiting(client),
        policy=Policy(least=least, most=most, finish_within_s=finish_within_s, idle_after_s=idle_after_s),
        apply=apply,
        worker_size=processes or 0,
        tick=_tick(client) if least == 0 and apply else None,
    )
    if every_s is None:
        look = scaler.look()
        echo(in_words(look, worker_type, applied=apply), indent=2)
        _warn_of_unknown_size(look, processes)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scaler.run(every_s, _Reporter(worker_type, apply=apply), stop.wait)


class _Reporter:
    """Prints what has changed since the last look, and errors."""

    def __init__(self, kind: str, *, apply: bool) -> None:
        self._kind = kind
        self._apply = apply
        self._said = ""

    def __call__(self, found: Look | ScorelineError) -> None:
        if isinstance(found, ScorelineError):
            self._said = ""
            echo(f"error: {explain(found)}; the number of dynos stays as it is", indent=2, err=True)
            return
        line = in_words(found, self._kind, applied=self._apply)
        state = f"{found.dynos} {found.decision.dynos}"
        if state != self._said:
            echo(line, indent=2)
        self._said = state


def _warn_of_unknown_size(look: Look, processes: int | None) -> None:
    if look.backlog.seconds and not processes and not look.backlog.worker_size:
        echo("no worker has reported its processes: one for each dyno is assumed, see --processes", indent=2, err=True)


def _counted(client: Client) -> Dynos:
    return CountedWorkers(lambda: len(client.queue.workers(timeout_s=1.0)))


def _waiting(client: Client) -> Callable[[], int]:
    """Return a function that counts the messages of jobs. Messages of beat wait for the next dyno.

    A message that a worker has taken counts too, because its job may not be in the bucket yet. A task ends long before
    `_LONGEST_TASK_S`; a message that was taken longer ago was taken by a worker that died.
    """
    queue = client.queue
    if not isinstance(queue, Queue):  # only in tests
        return lambda: sum(queue.backlog().waiting.values())
    names = queue.names.of_jobs

    def count() -> int:
        waiting = queue.backlog().waiting
        return sum(waiting.get(name, 0) for name in names) + queue.taken(names, _LONGEST_TASK_S)

    return count


def _tick(client: Client) -> Callable[[], object]:
    return lambda: Scheduler.from_settings(client, ScheduleSettings.from_env(os.environ)).tick()
