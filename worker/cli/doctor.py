"""``scoreline doctor``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import click

from scoreline.worker.doctor import NAMES, NOT_LOOKED_AT, Finding, examine

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--only", metavar="NAME,NAME", help=f"Run only these: {', '.join(NAMES)}.")
@click.option("--strict", is_flag=True, help="A warning counts as an error.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
def doctor(only: str | None, strict: bool, as_json: bool) -> None:
    """Check what goes wrong in production, and say how to mend it.

    \b
    scoreline doctor                         before a deployment, or as Heroku's release command
    scoreline doctor --only clock --strict   as the health check of a container that runs beat

    It ends within half a minute, and leaves nothing behind in the bucket or in Redis. Exit code 1 where there is an
    error, which is what would certainly break a deployment; a warning alone is 0.
    """
    chosen = None if only is None else _names(only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what a probe wrote is removed
    findings = examine(only=chosen)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    fatal = ("warning", "error") if strict else ("error",)
    _leave(int(any(finding.severity in fatal for finding in findings)))


def _names(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        what = f"no check {', '.join(map(repr, unknown))}" if unknown else "no check is named"
        raise click.BadParameter(f"{what}; there are {', '.join(NAMES)}", param_hint="--only")
    return names


def _print(findings: Sequence[Finding]) -> None:
    """Print what each check found, what to do below it, and how many there are of each kind."""
    column = max(map(len, NAMES))
    indent = len("warning") + column + 4
    width = max(shutil.get_terminal_size().columns, 2 * indent)
    shown = list(_summed_up(findings))
    for finding in shown:
        severity = click.style(f"{finding.severity:<7}", fg=_COLOURS[finding.severity])
        first, *rest = _said(finding, width - indent)
        click.echo(f"{severity}  {finding.check:<{column}}  {first}")
        for line in rest:
            click.echo(" " * indent + line)
    count = Counter(finding.severity for finding in shown)
    click.echo(f"\n{_plural(count['error'], 'error')}, {_plural(count['warning'], 'warning')}")


def _summed_up(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Say of all checks that wait for another in one line, at the place of the first."""
    waiting: dict[str, list[str]] = {}
    for finding in findings:
        if finding.message == NOT_LOOKED_AT:
            waiting.setdefault(finding.remedy, []).append(finding.check)
    for finding in findings:
        if finding.message != NOT_LOOKED_AT:
            yield finding
        elif names := waiting.pop(finding.remedy, []):
            first, *others = names
            also = f", nor {', '.join(others)}" if others else ""
            yield replace(finding, check=first, message=f"{NOT_LOOKED_AT}{also}")


def _said(finding: Finding, width: int) -> list[str]:
    """Return message and remedy: in one line where they fit, else one below the other."""
    one = f"{finding.message} -> {finding.remedy}"
    if finding.remedy and len(one) <= width:
        return [one]
    remedy = textwrap.wrap(finding.remedy, width, initial_indent="-> ", subsequent_indent="   ", break_on_hyphens=False)
    return textwrap.wrap(finding.message, width, break_on_hyphens=False) + remedy


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _leave(code: int) -> None:
    """Exit, without waiting for the pools of a check that hangs."""
    if any(thread.name.startswith("doctor-") for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
