"""``scoreline metrics``: prints or serves the metrics of the deployment."""

from __future__ import annotations

import click

from scoreline.tasks.client import Client
from scoreline.worker.cli.help import Command


@click.command(
    cls=Command,
    epilog="""\
scoreline metrics
scoreline metrics --serve 9100
scoreline metrics --serve $PORT --host 0.0.0.0  # in a dyno
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
def metrics(serve: int | None, host: str) -> None:
    """Print the metrics of the deployment, or serve them.

    The output has the text format of Prometheus. One process serves the metrics of all workers, because workers store
    their counters in Redis. If Redis is emptied, counters restart at zero; rate() and increase() account for that. If a
    service cannot be reached, its scoreline_up is 0, and its metrics are missing.
    """
    from prometheus_client import generate_latest  # this import takes 0.1 s

    from scoreline.worker.exporter import serve as serve_until_stopped
    from scoreline.worker.metrics import Deployment

    deployment = Deployment(Client.from_env())
    if serve is None:
        click.echo(generate_latest(deployment.registry()).decode(), nl=False)
    else:
        serve_until_stopped(deployment, host, serve, lambda url: click.echo(f"serving {url}", err=True))
