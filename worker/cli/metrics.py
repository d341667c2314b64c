"""``scoreline metrics``."""

from __future__ import annotations

import click

from scoreline.tasks.client import Client


@click.command()
@click.option(
    "--serve",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Answer on http://HOST:PORT/metrics until SIGTERM; 0 takes a free port.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
def metrics(serve: int | None, host: str) -> None:
    """Print the metrics of the deployment in the format of Prometheus, or serve them.

    \b
    One process serves them for all workers. In a dyno:   scoreline metrics --serve $PORT --host 0.0.0.0

    Counters are kept in Redis and begin again at zero when it is emptied, which rate() and increase() know how to take.
    A service that is down makes scoreline_up 0 for it, and its metrics missing.
    """
    from prometheus_client import generate_latest  # 0.1 s, which no other command need pay

    from scoreline.worker.exporter import serve as serve_until_told
    from scoreline.worker.metrics import Deployment

    deployment = Deployment(Client.from_env())
    if serve is None:
        click.echo(generate_latest(deployment.registry()).decode(), nl=False)
    else:
        serve_until_told(deployment, host, serve, lambda address: click.echo(f"serving {address}", err=True))
