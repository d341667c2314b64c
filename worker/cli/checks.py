"""``scoreline checks``: tries checks on an input, and writes a first file of checks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.buckets import WithLocalFile
from scoreline.storage.tables.options import READ_OPTIONS
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.quality.checks.checks_of import check_text
from scoreline.worker.cli.help import Command, Group
from scoreline.worker.cli.job_options import job_options, read_files
from scoreline.worker.cli.model_access import model_manager
from scoreline.worker.cli.output import echo, echo_field

if TYPE_CHECKING:
    from scoreline.tasks.steps.try_checks import Tried

BLOCKED = 5
"""Exit code if a job would be blocked."""
_LOCAL = "local"
"""Bucket that stands for the folder of a local file."""


@click.group(
    cls=Group,
    epilog="""\
scoreline checks infer churn@champion > checks.toml
scoreline checks test churn@champion today.csv --checks checks.toml
""",
)
def checks() -> None:
    """Try checks on an input, or write a first file of checks.

    Checks say what is expected of the rows and results of a job. They are published with a model version, or given
    with `scoreline submit --checks`.
    """


_OPTIONS = ("checks", "method", "keep", "features", *READ_OPTIONS)


@checks.command(
    cls=Command,
    epilog="""\
scoreline checks test churn@champion today.csv
scoreline checks test churn s3://bucket/in/2026-11-29/ --checks checks.toml
""",
)
@click.argument("model")
@click.argument("input")
@job_options(SubmitOptions, _OPTIONS)
@click.option(
    "--output",
    metavar="URI",
    help="Compare with the accepted runs of this output, too, s3://bucket/prefix/.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def test(model: str, input: str, output: str | None, as_json: bool, **options: object) -> None:
    """Hold an input against checks, without a job.

    MODEL is NAME, NAME@ALIAS or NAME@VERSION. INPUT is a file on this computer, or an object, prefix or glob in a
    bucket. Up to a million rows are scored in this process. Nothing is written or sent. The rows and their scores are
    compared with the baseline of the version. With --output, the numbers of rows are compared with those of the last
    accepted run of this output, and without a baseline, its first accepted run takes the place of one.

    Prints one line for each finding. The exit code is 5 if a job with this input would be blocked, and 0 otherwise.
    This command needs the packages of ml-requirements.txt.
    """
    client = Client.from_env()
    manager = model_manager()
    from scoreline.tasks.steps.try_checks import try_checks

    buckets, uri = client.buckets, input
    if "://" not in input:
        file = Path(input)
        if not file.is_file():
            raise click.BadParameter(f"there is no file {input}", param_hint="INPUT")
        buckets, uri = WithLocalFile(client.buckets, file, _LOCAL), f"s3://{_LOCAL}/{file.resolve().name}"
    spec = client.submission.spec(model, uri, read_files({**options, "output": output})).check()  # type: ignore[arg-type]  # click has read the options
    check_text(spec.checks)
    pinned = client.registry.resolve(model)
    job = Job(spec=replace(spec), model=pinned, submitted=datetime.now(UTC).isoformat(timespec="milliseconds"))
    tried = try_checks(buckets, client.ledger, manager, job, against_runs=output is not None)
    if as_json:
        click.echo(json.dumps(tried.to_dict(), indent=1))
    else:
        _show(tried)
    sys.exit(BLOCKED if tried.blocked else 0)


def _show(tried: Tried) -> None:
    rejected = f", {plural(tried.rejected, 'row')} rejected" if tried.rejected else ""
    echo(f"{tried.model}: {plural(tried.rows, 'row')}{rejected}; nothing was written or sent")
    for reason, count in sorted(tried.reasons.items(), key=lambda item: -item[1]):
        stage, _, column = reason.partition(" ")
        echo_field("rejected", f"{plural(count, 'row')} at stage {stage}{f' for {column!r}' if column else ''}")
    if not tried.complete:
        echo_field("note", "the input has more rows than were tried")
    if tried.compared_with:
        echo_field("note", f"the numbers of rows were compared with those of job {tried.compared_with}")
    elif not tried.has_baseline:
        echo_field("note", "the version has no baseline, so only fixed limits were checked")
    for name, advice in tried.unknown.items():
        echo_field("note", f"the checks name the column {name!r}, which a job with this input does not have{advice}")
    for finding in tried.findings:
        echo_field(finding.level, finding.message)
    if not tried.findings:
        echo("all checks passed")
    elif tried.blocked:
        echo("a job with this input would be blocked")


@checks.command(
    cls=Command,
    epilog="""\
scoreline checks infer churn@champion > checks.toml
""",
)
@click.argument("model")
def infer(model: str) -> None:
    """Print a first checks.toml for a model version, from its baseline.

    MODEL is NAME, NAME@ALIAS or NAME@VERSION. The ranges and the values of the training data are written as comments:
    remove the # of a rule to reject the rows that break it. The version must have been published with --baseline.
    """
    client = Client.from_env()
    from scoreline.tasks.quality.checks.inferred_checks import infer_checks
    from scoreline.tasks.quality.gate.stored_profiles import read_baseline

    manifest = client.registry.show(model)
    baseline = read_baseline(client.buckets.main, manifest)
    if baseline is None:
        raise InvalidRequest(f"{manifest.ref} has no baseline: publish it with --baseline FILE")
    click.echo(infer_checks(manifest.ref, baseline), nl=False)
