"""``scoreline doctor``: runs the checks and prints what they found."""

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

from scoreline.storage.wording import plural, printable
from scoreline.worker.cli.help import Command
from scoreline.worker.doctor import NAMES, SKIPPED, Finding, examine

_OF_RUNNING = {"workers", "clock"}
"""The checks whether other processes are running. At a release, these processes may not be running yet. A health check
consists only of such checks."""
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(
    cls=Command,
    epilog="""\
scoreline doctor
scoreline doctor --only redis,bucket
scoreline doctor --only workers  # as a health check of a worker
""",
)
@click.option("--only", metavar="NAME,NAME", help=f"Run only these checks: {', '.join(NAMES)}.")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
def doctor(only: str | None, strict: bool, as_json: bool) -> None:
    """Check a deployment for common faults in production.

    Examines the settings, packages and services of this environment, and prints how to fix each fault. Run this command
    before a deployment, or as Heroku's release command. The checks take at most half a minute, and leave no data in the
    bucket or in Redis.

    With --only workers, --only clock or both, this command is a health check. The exit code is then 1 if no worker
    answers, or if no tick has run recently.

    \b
    Exit codes:
      0  no errors
      1  at least one error: something will certainly not work; a warning, with
         --strict or as a health check
    """
    chosen = None if only is None else _names(only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # on exit, a probe removes its objects
    findings = examine(only=chosen)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    health_check = chosen is not None and _OF_RUNNING.issuperset(chosen)
    fatal = ("warning", "error") if strict or health_check else ("error",)
    _exit(int(any(finding.severity in fatal for finding in findings)))


def _names(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        what = f"no check is named {', '.join(map(repr, unknown))}" if unknown else "no check is given"
        raise click.BadParameter(f"{what}; choose from {', '.join(NAMES)}", param_hint="--only")
    return names


def _print(findings: Sequence[Finding]) -> None:
    """Print each finding with its remedy, and then the number of errors and warnings."""
    column = max(map(len, NAMES))
    indent = len("warning") + column + 4
    width = max(shutil.get_terminal_size().columns, 2 * indent)
    shown = list(_merge_skipped(findings))
    for finding in shown:
        severity = click.style(f"{finding.severity:<7}", fg=_COLOURS[finding.severity])
        first, *rest = _lines(finding, width - indent)
        click.echo(f"{severity}  {finding.check:<{column}}  {first}")
        for line in rest:
            click.echo(" " * indent + line)
    count = Counter(finding.severity for finding in shown)
    click.echo(f"\n{plural(count['error'], 'error')}, {plural(count['warning'], 'warning')}")


def _merge_skipped(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Merge checks that were skipped for the same reason into one finding, in the position of the first check."""
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.message == SKIPPED:
            skipped.setdefault(finding.remedy, []).append(finding.check)
    for finding in findings:
        if finding.message != SKIPPED:
            yield finding
        elif names := skipped.pop(finding.remedy, []):
            first, *others = names
            also = f", as are {', '.join(others)}" if others else ""
            yield replace(finding, check=first, message=f"{SKIPPED}{also}")


def _lines(finding: Finding, width: int) -> list[str]:
    """Return message and remedy on one line if they fit, and on separate lines otherwise."""
    message, advice = printable(finding.message), printable(finding.remedy)
    one = f"{message} -> {advice}"
    if advice and len(one) <= width:
        return [one]
    remedy = textwrap.wrap(advice, width, initial_indent="-> ", subsequent_indent="   ", break_on_hyphens=False)
    return textwrap.wrap(message, width, break_on_hyphens=False) + remedy


def _exit(code: int) -> None:
    """Exit at once, without waiting for the threads of checks that hang."""
    if any(thread.name.startswith("doctor-") for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
