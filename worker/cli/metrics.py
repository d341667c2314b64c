"""``scoreline metrics``: prints or serves the metrics of the deployment."""

from __future__ import annotations

import json
import os

import click

from scoreline.tasks.backlog.for_scalers import for_scalers
from scoreline.tasks.backlog.settings import HireFireSettings
from scoreline.tasks.client import Client
from scoreline.worker.cli.help import Command


@click.command(
    cls=Command,
    epilog="""\
scoreline metrics
scoreline metrics --serve 9100
scoreline metrics --serve $PORT --host 0.0.0.0  # in a dyno
scoreline metrics --json
""",
)
@click.option(
    "--serve",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Serve the metrics at http://HOST:PORT/metrics until SIGTERM; 0 takes a free port.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="With --serve, listen on this address; 0.0.0.0 means all addresses.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print only the backlog in seconds, as JSON for autoscalers like HireFire.",
)
@click.option(
    "--worker-type",
    metavar="NAME",
    default="worker",
    show_default=True,
    help="Name of the process type in the JSON: the name of the workers' line in the Procfile.",
)
def metrics(serve: int | None, host: str, as_json: bool, worker_type: str) -> None:
    """Print the metrics of the deployment, or serve them.

    The output has the text format of Prometheus. One process serves the metrics of all workers, because workers store
    their counters in Redis. If Redis is emptied, counters restart at zero; rate() and increase() account for that. If a
    service cannot be reached, its scoreline_up is 0, and its metrics are missing.

    With --json, prints the seconds of work that are left for one process, as HireFire reads it:
    [{"name": "worker", "value": 512.3}]. With --serve, the same JSON is at /metrics.json, and also at the address that
    HireFire asks for, /hirefire/TOKEN/info, if HIREFIRE_TOKEN is set. Divide the value by the seconds that a dyno may
    take to get the number of dynos.
    """
    if as_json and serve is not None:
        raise click.UsageError("--json prints once, and --serve serves the JSON at /metrics.json anyway")
    if as_json:
        click.echo(json.dumps(for_scalers(Client.from_env().backlog(), worker_type)))
        return
    from prometheus_client import generate_latest  # this import takes 0.1 s

    from scoreline.worker.exporter import serve as serve_until_stopped
    from scoreline.worker.metrics import Deployment

    client = Client.from_env()
    deployment = Deployment(client)
    if serve is None:
        click.echo(generate_latest(deployment.registry()).decode(), nl=False)
        return
    token = HireFireSettings.from_env(os.environ).token
    serve_until_stopped(
        deployment,
        host,
        serve,
        lambda url: click.echo(f"serving {url}", err=True),
        lambda: for_scalers(client.backlog(), worker_type),
        token,
    )
