"""``scoreline outcomes``: adds labels that arrived after the scores, and shows how good the scores were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from scoreline.storage.tables.options import READ_OPTIONS
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.submit_options import SubmitOptions, read_options_from
from scoreline.tasks.job.uris import with_slash
from scoreline.tasks.quality.outcomes.estimates import HIGHER_IS_BETTER, Estimate, change, is_worse
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes
from scoreline.tasks.quality.outcomes.run_outcomes import Group, RunOutcomes
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.help import Group as CommandGroup
from scoreline.worker.cli.job_options import job_options
from scoreline.worker.cli.output import echo, echo_json, print_table

if TYPE_CHECKING:
    from scoreline.tasks.quality.outcomes.late_labels import AddedOutcomes

_NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "brier": "Brier",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
}
_SHOWN: Mapping[str, Sequence[str]] = {"classifier": ("auc", "log_loss"), "regressor": ("rmse", "mae")}
"""The metrics in the table, which is at most 80 characters wide; the others are below it."""


@click.group(
    cls=CommandGroup,
    epilog="""\
scoreline outcomes add s3://bucket/churn/ labels.csv --key id --target churned
scoreline outcomes show s3://bucket/churn/
""",
)
def outcomes() -> None:
    """Compare scores with what happened later.

    Labels that arrive after the scores are joined by key to the accepted runs of an output. For each run, model
    version and segment, Scoreline keeps how many rows have a label, and how good their scores were.
    """


@outcomes.command(
    cls=Command,
    epilog="""\
scoreline outcomes add s3://bucket/churn/ labels.csv --key id --target churned
scoreline outcomes add s3://bucket/sales/ s3://bucket/sold/2026-11/ \\
    --key shop,day --target sold --time booked_at
""",
)
@click.argument("output")
@click.argument("file")
@click.option(
    "--key", required=True, metavar="COL[,COL]", help="Columns that identify a row, in FILE and in the results."
)
@click.option("--target", required=True, metavar="COL", help="Column with the labels: what the model predicts.")
@click.option(
    "--time",
    metavar="COL",
    help="Column with the time of each label. Of two labels of a key, the later one counts; by default, the one that "
    "was added last.",
)
@job_options(SubmitOptions, READ_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print what was added as JSON.")
def add(output: str, file: str, key: str, target: str, time: str | None, as_json: bool, **options: Any) -> None:
    """Add labels to the accepted runs of OUTPUT.

    FILE is a file on this computer, or the URI of an object, a prefix or a glob. The key is a column that the jobs keep
    (`submit --keep`), or several; keys are compared as text, so that 7 and 7.0 are the same. Each accepted run whose
    results have a key is compared with its label.

    The same labels may be added again, which changes nothing. A label that differs from the one that was added before
    for the same key replaces it, and is counted once. A file in which a key has several labels is refused, unless
    --time says which is the latest. Rows whose target is null are left out. Keys that no run has are counted, and
    their labels are kept for runs that are accepted later: add any labels again to compare them.

    Labels and hashes of keys are kept in OUTPUT/_outcomes/, but no other column. All results of the accepted runs are
    read. This command needs the packages of ml-requirements.txt.
    """
    client = Client.from_env()
    found = client.add_outcomes(
        output,
        file,
        key=[name.strip() for name in key.split(",")],
        target=target,
        time=time,
        read=read_options_from(options),
    )
    if as_json:
        echo_json(found.to_dict())
    else:
        _show_added(found, with_slash(output))


def _show_added(found: AddedOutcomes, output: str) -> None:
    added = found.added
    pieces = [
        (added.new, "new"),
        (added.corrected, "corrected"),
        (added.repeated, "known already"),
        (added.older, "older than the label that is known"),
        (added.null_targets, "without a label"),
    ]
    said = ", ".join(f"{count:,} {what}" for count, what in pieces if count)
    echo(f"{plural(added.rows, 'row')}: {said}")
    if found.unknown:
        examples = ", ".join(found.examples)
        echo(
            f"{plural(found.unknown, 'key')} {'is' if found.unknown == 1 else 'are'} in no accepted run, such as "
            f"{examples}: kept for later runs",
            err=True,
        )
    for job_id, why in found.skipped.items():
        echo(f"run {job_id} was not compared: {why}", err=True)
    runs = len({run.job_id for run in found.outcomes.runs})
    state = "compared" if found.changed else "nothing changed:"
    echo(f"{state} {plural(runs, 'run')} with {plural(found.outcomes.labels, 'label')}")
    echo(f"scoreline outcomes show {output}")


@outcomes.command(
    cls=Command,
    epilog="""\
scoreline outcomes show s3://bucket/churn/
scoreline outcomes show s3://bucket/churn/ --segment north --json
""",
)
@click.argument("output")
@click.option("--model", metavar="VERSION", help="Show only a model version: NAME@VERSION, or VERSION.")
@click.option("--segment", metavar="VALUE", help="Show only the rows of a segment; `all` shows every segment.")
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
def show(output: str, model: str | None, segment: str | None, as_json: bool) -> None:
    """Show how good the scores of OUTPUT were, by model version and run.

    Each version is shown with its runs in order of time, and then all of its runs together. Coverage is the share of
    rows whose label is known. The number after ± is half the width of the 95% interval. If a metric differs from the
    run before by more than chance explains (z-test at 5%), a line says WORSE or better. The deciles and the calibration
    of each version follow.
    """
    output = with_slash(output)
    found = Client.from_env().outcomes(output)
    if found is None:
        echo(f"no labels were added to {output}: `scoreline outcomes add {output} FILE --key COL --target COL`")
        return
    runs = [run for run in found.runs if model is None or model in (run.model, run.model.partition("@")[2])]
    if not runs:
        versions = ", ".join(dict.fromkeys(run.model for run in found.runs))
        raise click.BadParameter(f"no run has model version {model}: the versions are {versions}", param_hint="--model")
    known = list(dict.fromkeys(group.segment for run in runs for group in run.groups if group.segment is not None))
    if segment is not None and segment != "all" and segment not in known:
        raise click.BadParameter(
            f"no run has segment {segment!r}: {', '.join(map(repr, known)) or 'the jobs have no --segment'}",
            param_hint="--segment",
        )
    chosen = replace(found, runs=runs)
    if as_json:
        echo_json(chosen.to_dict())
        return
    keys, updated = ", ".join(found.key), found.updated[:16].replace("T", " ")
    echo(f"{plural(found.labels, 'label')} of {found.target!r} by {keys}, last added {updated} UTC")
    for name in [None] if segment is None else known if segment == "all" else [segment]:
        _show_group(chosen, name)


def _show_group(found: Outcomes, segment: str | None) -> None:
    before: RunOutcomes | None = None
    for version in found.versions():
        group = _group_of(version, segment)
        if group is None:
            continue
        click.echo()
        scorer = f", model {version.scorer}" if version.scorer else ""
        where = "" if segment is None else f", {version.segment or 'segment'} {segment}"
        echo(f"{version.model}{scorer}{where}")
        runs = [run for run in found.runs if (run.model, run.scorer) == (version.model, version.scorer)]
        _show_runs(runs, version, segment)
        if before is not None and before.kind == version.kind and (earlier := _group_of(before, segment)) is not None:
            for words in _changes(earlier, group):
                _note(f"{words[0]}: {words[1]} in {before.model}")
        _show_notes(version, group)
        _show_deciles(version, group)
        _show_calibration(group)
        before = version


def _show_runs(runs: Sequence[RunOutcomes], version: RunOutcomes, segment: str | None) -> None:
    names = _SHOWN[version.kind]
    if all("auc" not in run.whole.metrics and "log_loss" not in run.whole.metrics for run in runs):
        names = ("accuracy",) if version.kind == "classifier" else names
    rows: list[list[str]] = []
    changes: list[str] = []
    before: Group | None = None
    for run in runs:
        group = _group_of(run, segment)
        if group is None:
            continue
        rows.append([run.at[:16].replace("T", " "), *_cells(group, names)])
        if before is not None:
            changes += [
                f"{words[0]} {run.at[:10]} ({run.job_id}): {words[1]} in the run before"
                for words in _changes(before, group)
            ]
        before = group if group.labels else before
    total = _group_of(version, segment)
    if total is not None and len(rows) > 1:
        rows.append([f"all {len(rows)} runs", *_cells(total, names)])
    print_table(["run", "labels", "coverage", *(_NAMES[name] for name in names)], rows)
    for words in changes:
        _note(words)


def _cells(group: Group, names: Sequence[str]) -> list[str]:
    found = [f"{group.labels:,}", _percent(group.coverage)]
    return found + [_number(group.metrics[name]) if name in group.metrics else "-" for name in names]


def _changes(before: Group, after: Group) -> list[tuple[str, str]]:
    """Return the metrics that are worse or better than before, each with what has changed, in words."""
    found = []
    for name in HIGHER_IS_BETTER:
        if name not in before.metrics or name not in after.metrics:
            continue
        old, new = before.metrics[name], after.metrics[name]
        difference = change(name, old, new)
        if difference is None:
            continue
        verb = "fell" if difference < 0 else "rose"
        word = "WORSE" if is_worse(name, difference) else "better"
        found.append((word, f"{_NAMES[name]} {verb} to {new.value:.3g} from {old.value:.3g}"))
    return found


def _show_notes(version: RunOutcomes, group: Group) -> None:
    others = [name for name in HIGHER_IS_BETTER if name in group.metrics and name not in _SHOWN[version.kind]]
    if others:
        said = ", ".join(f"{_NAMES[name]} {_number(group.metrics[name])}" for name in others)
        _note(f"{said}{f'; positive class {version.positive!r}' if version.positive else ''}")
    if version.repeated:
        _note(f"{plural(version.repeated, 'row')} with a key that another row of the run has, too")
    if version.one_in > 1:
        _note(f"AUC and deciles are of a sample: one row in {version.one_in}")


def _note(text: str) -> None:
    echo(f"  {text}", indent=4)


def _show_deciles(version: RunOutcomes, group: Group) -> None:
    if not group.deciles:
        return
    is_share = version.kind == "classifier"
    lifts = ["lift"] if is_share and group.base else []
    rows = []
    for number, item in enumerate(group.deciles):
        half = (item.high - item.low) / 2
        observed = f"{item.observed:.1%} ±{half:.1%}" if is_share else f"{item.observed:.4g} ±{half:.2g}"
        predicted = f"{item.predicted:.1%}" if is_share else f"{item.predicted:.4g}"
        lift = [f"{group.lift(number):.2f}"] if lifts else []
        rows.append([str(number + 1), f"{item.rows:,.0f}", predicted, observed, *lift])
    print_table(["decile", "rows", "predicted", "observed", *lifts], rows)


def _show_calibration(group: Group) -> None:
    if not group.calibration:
        return
    rows = [
        [
            f"{item.start:.0%} to {item.stop:.0%}",
            f"{item.rows:,.0f}",
            f"{item.predicted:.1%}",
            f"{item.observed:.1%} ±{(item.high - item.low) / 2:.1%}",
            "too high" if item.predicted > item.high else "too low" if item.predicted < item.low else "",
        ]
        for item in group.calibration
    ]
    print_table(["probability", "rows", "predicted", "observed", ""], rows)


def _group_of(run: RunOutcomes, segment: str | None) -> Group | None:
    return next((group for group in run.groups if group.segment == segment), None)


def _percent(found: Estimate) -> str:
    return f"{found.value:.1%} ±{(found.high - found.low) / 2:.1%}"


def _number(found: Estimate) -> str:
    return f"{found.value:.3g} ±{(found.high - found.low) / 2:.2g}"
