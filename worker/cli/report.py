"""``scoreline report``: writes a page about a job that has ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.quality.results.whole_file import whole_file
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo

_STANDARD_OUTPUT = Path("-")


@click.command(
    cls=Command,
    epilog="""\
scoreline report nightly-20261125T020000Z
scoreline report nightly-20261125T020000Z -o report.html --against baseline
scoreline report nightly-20261125T020000Z --against nightly-20261124T020000Z
scoreline report nightly-20261125T020000Z --json
""",
)
@click.argument("job")
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to FILE, or to standard output if it is '-'.  [default: JOB.html; with --json, standard output]",
)
@click.option(
    "--against",
    metavar="JOB|baseline",
    help="Compare with another job, or with the baseline of the model version. By default, with what the checks "
    "compare with: the baseline, or else the first accepted run of the output.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the facts of the page as JSON.")
def report(job: str, path: Path | None, against: str | None, as_json: bool) -> None:
    """Write a page about a job that has ended.

    The page is one HTML file that needs nothing else, and that a browser shows without a network. It says what the
    checks of JOB found, shows each feature and score beside those of the baseline, and says why rows were rejected,
    where the time went, and what the results were made from.

    A job that is checked has such a page beside its results, _report.html, which shows what was known when the job
    ended. This command makes the page again, with decisions and late labels since. Without the packages of
    ml-requirements.txt, it does not say why rows were rejected.
    """
    found = Client.from_env().report(job, against)
    if as_json:
        text = json.dumps(found.to_dict(), indent=1) + "\n"
        path = path or _STANDARD_OUTPUT
    else:
        from scoreline.tasks.quality.report.html import render  # Jinja2 takes 0.1 s to import

        text, path = render(found), path or Path(f"{job}.html")
    if path == _STANDARD_OUTPUT:
        click.echo(text, nl=False)
        return
    data = text.encode()
    _write(path, data)
    blocking = sum(finding.level == "block" for finding in found.findings)
    said = plural(len(found.findings), "finding") + (
        f", {blocking:,} of which block{'s' if blocking == 1 else ''}" if blocking else ""
    )
    echo(f"wrote {path} ({len(data):,} bytes): job {job} {found.state}, {said}", err=True)
    if not as_json and sys.stderr.isatty():
        echo(f"open it in a browser: {path.resolve().as_uri()}", err=True)


def _write(path: Path, data: bytes) -> None:
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror or error}") from None
