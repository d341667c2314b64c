"""``scoreline doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from worker.doctor import examine

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
def doctor(as_json: bool) -> None:
    """Check what goes wrong in production, and say how to mend it.

    Exit code 1 where there is an error; a warning alone is 0.
    """
    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table("", "check", "finding", "what to do", box=None)
        for finding in findings:
            colour = _COLOURS[finding.severity]
            table.add_row(f"[{colour}]{finding.severity}[/]", finding.check, finding.message, finding.remedy)
        Console().print(table)
    raise SystemExit(any(finding.severity == "error" for finding in findings))
