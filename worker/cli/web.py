"""``scoreline web``: serves the pages, and prints entries for WEB_USERS."""

from __future__ import annotations

import ipaddress
import os
import sys

import click

from scoreline.storage.errors import InvalidRequest, InvalidSettings, ScorelineError, missing_package
from scoreline.tasks.client import Client
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.output import echo
from scoreline.worker.web.passwords import LEAST_CHARS, hash_password
from scoreline.worker.web.settings import ROLES, WebSettings

_PORT = 8000


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog="""\
scoreline web
scoreline web --host 0.0.0.0 --port 8000
scoreline web adduser alice --role operate
""",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Listen on this address.  [default: 0.0.0.0 with WEB_USERS, otherwise 127.0.0.1]",
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="N", help=f"Listen on this port.  [default: PORT, or {_PORT}]"
)
@click.pass_context
def web(context: click.Context, host: str | None, port: int | None) -> None:
    """Serve the pages about jobs, schedules and models.

    WEB_USERS has an entry for each user, with the role and the hash of the password; `scoreline web adduser` prints
    such an entry. With WEB_PROXY_HEADER, a proxy at an address in WEB_PROXIES names the user. Without users, only
    browsers on this machine reach the pages, on 127.0.0.1.

    No database is needed. This command needs the packages of web-requirements.txt.
    """
    if context.invoked_subcommand is None:
        serve(host, port)


def serve(host: str | None, port: int | None) -> None:
    """Serve the pages until the process is stopped."""
    chosen = WebSettings.from_env(os.environ)
    if host is None and not chosen.knows_users and os.environ.get("DYNO"):
        raise InvalidSettings(
            "WEB_USERS is not set, and a dyno serves everyone who reaches it: `scoreline web adduser NAME` prints an "
            "entry. Without pages, run `heroku ps:scale web=0`"
        )
    host = host or ("0.0.0.0" if chosen.knows_users else "127.0.0.1")
    is_local = _is_local(host)
    if not chosen.knows_users and not is_local:
        raise InvalidSettings(
            f"--host {host} would show the pages to everyone who reaches it: set WEB_USERS (`scoreline web adduser "
            "NAME` prints an entry), or leave --host out"
        )
    if chosen.knows_users and not is_local and "WEB_SECRET_KEY" not in os.environ:
        echo("WEB_SECRET_KEY is not set: everyone has to log in again when this process restarts", indent=2, err=True)
    port = port if port is not None else _port()
    Client.from_env()  # name faults of the settings before anything listens
    try:
        from scoreline.worker.web import site
        from scoreline.worker.web.server import Server
    except ModuleNotFoundError as error:
        raise ScorelineError(
            f"scoreline web needs {missing_package(error)!r}: pip install -r web-requirements.txt"
        ) from error
    site.configure(chosen, is_local=is_local)
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    Server(host, port, site.application, lambda: echo(f"pages: http://{shown}:{port}/", indent=2)).run()


@web.command(epilog="scoreline web adduser alice --role operate\n")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="view",
    show_default=True,
    help="What the user may do. `view` shows everything; `operate` also submits, cancels, resumes and runs; `promote` "
    "also accepts, rejects, rolls back and moves aliases.",
)
def adduser(name: str, role: str) -> None:
    """Print an entry for WEB_USERS.

    The entry has NAME, the role and the hash of a password, which the command asks for or reads from standard input.
    Separate entries by spaces or commas.
    """
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < LEAST_CHARS:
        raise InvalidRequest(f"the password is shorter than {LEAST_CHARS} characters")
    line = f"{name}:{role}:{hash_password(password)}"
    WebSettings.from_env({"WEB_USERS": line})
    click.echo(line)


def _port() -> int:
    text = os.environ.get("PORT", "").strip()
    if not text:
        return _PORT
    if not text.isdigit() or int(text) > 65_535:
        raise InvalidSettings(f"PORT={text!r} is not the number of a port")
    return int(text)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
