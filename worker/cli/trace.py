"""``scoreline trace``: says where a row of a result file comes from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo, echo_field, echo_json

if TYPE_CHECKING:
    from scoreline.tasks.quality.trace.lineage import Lineage, ModelLineage
    from scoreline.tasks.quality.trace.tracer import Trace

_MAX_VALUES = 30
"""Maximum number of values that are shown of a row."""
_MAX_FINDINGS = 10
_STATES = {
    "unchanged": "unchanged since",
    "changed": "changed since: it has another etag now",
    "gone": "gone: the object was deleted since",
    "unreadable": "cannot be read here",
    "": "",
}


@click.command(
    cls=Command,
    epilog="""\
scoreline trace s3://bucket/churn/job_id=a/part-00003.parquet 1207 --show
scoreline trace s3://bucket/churn/ --key customer_id=4711
scoreline trace part-00000.parquet 0 --json
""",
)
@click.argument("target", metavar="FILE|OUTPUT|JOB")
@click.argument("row", required=False, type=click.IntRange(0), metavar="[ROW]")
@click.option(
    "--key",
    "key",
    multiple=True,
    metavar="COL=VALUE",
    help="Trace the rows with this value in a kept column, instead of a row by its number. May be repeated: all values "
    "must be equal.",
)
@click.option("--show", is_flag=True, help="Read the input row, too, if its object has not changed.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of traces as JSON.")
def trace(target: str, row: int | None, key: tuple[str, ...], show: bool, as_json: bool) -> None:
    """Say where a row of results comes from.

    FILE is a file with results or rejected rows, as a URI or as a copy on this computer. ROW is the number of the row
    in the file, from 0. The input row, too, is numbered from 0, without the header of CSV, as in `scoreline rejected`.

    With --key, the rows with this key are traced. They are searched in FILE, in the results and rejected rows of JOB,
    or in those of the run that readers of OUTPUT take. OUTPUT may also be the URI of its latest.json. Values are
    compared as text.

    Prints the input object with its ETag and the number of the row, the job, the model version with its digest and
    signature, the libraries that scored the row, what the checks found, and who accepted the results. Signatures are
    checked with MODEL_VERIFY_KEYS. Files that were copied or rewritten by other programs lose their footer, and cannot
    be traced. The exit code is 1 if no row has the key.

    This command needs the packages of ml-requirements.txt.
    """
    client = Client.from_env()
    if (row is None) == (not key):
        raise click.UsageError("name a row by its number, from 0, or by --key COL=VALUE")
    if row is not None:
        if not (target.endswith(".parquet") or "://" not in target):
            raise click.UsageError(f"{target!r} is no result file, so that its rows have no numbers: use --key")
        found = [client.trace(target, row, show=show)]
    else:
        found = client.trace_key(target, _key_of(key), show=show)
    if as_json:
        echo_json([item.to_dict() for item in found])
    else:
        for number, item in enumerate(found):
            if number:
                click.echo()
            _show(item)
    if not found:
        echo(f"no row of {target} has {' and '.join(key)}", err=True)
        raise SystemExit(1)
    _note_more(len(found))


def _note_more(count: int) -> None:
    from scoreline.tasks.quality.trace.tracer import MAX_FOUND

    if count == MAX_FOUND:
        echo(f"only the first {plural(count, 'row')} with this key are shown: there may be more", err=True)


def _key_of(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        column, equals, value = text.partition("=")
        if not (column and equals):
            raise click.BadParameter(f"{text!r} is not of the form COL=VALUE", param_hint="--key")
        if column in found:
            raise click.BadParameter(f"the column {column!r} is given twice", param_hint="--key")
        found[column] = value
    return found


def _show(found: Trace) -> None:
    what = "rejected row" if found.rejected else "row"
    echo(f"{what} {found.row:,} of {found.file}")
    echo_field("values", _values(found.values))
    if found.copy:
        same = "this copy is the file that the job wrote" if found.copy == "as written" else ""
        echo_field("copy", same or "this copy differs from the file that the job wrote: do not trust it")
    _show_input(found)
    part = "" if found.part is None else f", part {found.part}"
    echo_field("job", f"{found.job_id}{part}")
    if found.lineage is not None:
        _show_job(found.lineage)
    _show_model(found.model)
    if found.libraries:
        echo_field("packages", ", ".join(f"{name} {version}" for name, version in found.libraries.items()))
    if found.lineage is not None:
        _show_acceptance(found.lineage)
    for note in found.notes:
        echo_field("note", note)


def _show_input(found: Trace) -> None:
    if not found.input:
        echo_field("input", "not known")
        return
    where = found.input
    number = "a row that is not known" if found.input_row is None else f"row {found.input_row:,}"
    if "://" in where and _is_records(found.job_id, where):
        number = number.replace("row", "record", 1)
    echo_field("input", f"{number} of {where}")
    state = _STATES[found.input_state]
    echo_field("etag", f"{found.etag or 'not known'}{f', {state}' if state else ''}")
    if found.input_values is not None:
        echo_field("was", _values(found.input_values))


def _is_records(job_id: str, uri: str) -> bool:
    try:
        key = parse_uri(uri)[1]
    except InvalidRequest:
        return False
    return keys.is_records(key) or keys.records_digest(job_id, key) is not None or keys.is_records_bulk(job_id, key)


def _show_job(lineage: Lineage) -> None:
    person = lineage.submitter
    who = "" if person is None else f" by {person.who}"
    schedule = "" if lineage.schedule is None else f", schedule {lineage.schedule}"
    echo_field("sent", f"{_moment(lineage.submitted)}{who}{schedule}; the job {_state(lineage.state)}")
    if lineage.rejected_of is not None:
        echo_field("again", f"the job scored the rejected rows of job {lineage.rejected_of}")


def _show_model(model: ModelLineage) -> None:
    echo_field("model", f"{model.ref}")
    echo_field("digest", f"sha256 {model.manifest_sha256}")
    said = {
        "signed": f"by trusted key {model.signer}",
        "not checked": "not checked: MODEL_VERIFY_KEYS is not set",
        "not trusted": model.note,
        "gone": model.note,
        "altered": model.note,
    }
    echo_field("signed", said[model.signature])


def _show_acceptance(lineage: Lineage) -> None:
    accepted = lineage.acceptance
    at = f" on {_moment(accepted.at)}" if accepted.at else ""
    who = f" by {accepted.who}" if accepted.who else ""
    reason = f": {accepted.reason}" if accepted.reason else ""
    what: str = accepted.decision
    if what == "not published":
        what, reason = "no results for readers of an output", ""
    echo_field("decision", f"{what}{who}{at}{reason}")
    if accepted.is_latest:
        echo_field("latest", "readers of the output take this run")
    checks = lineage.checks
    if checks is None:
        return
    for finding in checks.findings[:_MAX_FINDINGS]:
        echo_field("blocks" if finding.level == "block" else "warning", f"{finding.check}: {finding.message}")
    if len(checks.findings) > _MAX_FINDINGS:
        left = plural(len(checks.findings) - _MAX_FINDINGS, "finding")
        echo_field("…", f"{left} more: scoreline status {lineage.job_id}")


def _values(values: Mapping[str, Any]) -> str:
    shown = [f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in values.items()]
    more = f" … and {len(shown) - _MAX_VALUES} more" if len(shown) > _MAX_VALUES else ""
    return " ".join(shown[:_MAX_VALUES]) + more


def _state(state: str) -> str:
    said = {"running": "is under way", "blocked": "is blocked", "partial": "ended partial"}
    return said.get(state, state)


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
