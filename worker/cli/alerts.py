"""``scoreline alerts list | test``: who receives alerts, and whether they can be reached."""

from __future__ import annotations

import os
import sys

import click

from scoreline.storage.errors import AlertUndelivered, InvalidRequest, describe
from scoreline.storage.wording import plural
from scoreline.tasks.alerts.sending import read_waiting, send_message
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.client import Client
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.output import echo


@click.group(
    cls=Group,
    epilog="""\
scoreline alerts list
scoreline alerts test
scoreline alerts test ops
""",
)
def alerts() -> None:
    """Show who receives alerts, and send them a test message.

    Alerts report failures by e-mail, in Slack or Teams, or by any other service that Apprise knows. One variable is
    enough; it contains addresses, separated by spaces:

    \b
    ALERT_URLS="mailtos://user:password@smtp.example.org?to=ops@example.org
      https://hooks.slack.com/services/T0/B0/secret"

    In a file alerts.toml in the working directory of the workers, each recipient gets the alerts about certain
    schedules, groups and events. The file names the variables that contain the addresses:

    \b
    [ops]
    urls = ["OPS_MAIL"]

    \b
    [churn-team]
    urls = ["CHURN_SLACK"]
    schedules = ["nightly*"]
    groups = ["churn"]
    on = ["failed", "blocked", "late", "succeeded"]

    \b
    Events:
      failed  partial  blocked  unloaded        (by default)
      late  missed  refused  schedules          (by default)
      succeeded  cancelled

    Beat has alerts sent. Alerts about the same schedule or group are sent together, at most every ten minutes.
    """


@alerts.command(name="list", epilog="scoreline alerts list\n")
def list_() -> None:
    """Show the recipients, and the alerts that wait."""
    settings = AlertSettings.from_env(os.environ)
    if not settings.recipients:
        echo("there is no recipient: see `scoreline alerts --help`")
    for recipient in settings.recipients:
        what = ", ".join(recipient.on)
        patterns = [*recipient.schedules, *recipient.groups]
        about = f"; about {', '.join(patterns)}" if patterns else ""
        echo(f"{recipient.name}: {plural(len(recipient.urls), 'address')}; receives {what}{about}", indent=2)
    waiting = read_waiting(Client.from_env().buckets.main)
    if waiting:
        echo(f"{plural(len(waiting), 'alert')} waiting, the oldest since {min(alert.at for alert in waiting)}")


@alerts.command(epilog="scoreline alerts test\nscoreline alerts test ops\n")
@click.argument("recipient", required=False)
def test(recipient: str | None) -> None:
    """Send a test message to all recipients, or to one RECIPIENT.

    The exit code is 1 if a message could not be delivered.
    """
    known = AlertSettings.from_env(os.environ).recipients
    chosen = [item for item in known if recipient in (None, item.name)]
    if not chosen:
        if not known:
            raise InvalidRequest("there is no recipient: set ALERT_URLS, see `scoreline alerts --help`")
        names = ", ".join(item.name for item in known)
        raise InvalidRequest(f"there is no recipient {recipient!r}; known are {names}")
    failed = False
    for item in chosen:
        try:
            send_message(item.urls, "Scoreline: a test", "This is a test. Scoreline will report failures here.")
            echo(f"{item.name}: delivered")
        except AlertUndelivered as error:
            failed = True
            echo(f"{item.name}: {describe(error)}", err=True)
    sys.exit(failed)
