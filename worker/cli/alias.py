"""``scoreline models alias``: moves an alias, and shows its history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import click

from scoreline.storage.models.aliases import Alias
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.quality.challengers.challenger_runs import newest_comparison
from scoreline.tasks.quality.challengers.promotion import Assessment, promote
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo, print_table

_NAME_WIDTH = 12


@click.command(
    cls=Command,
    epilog="""\
scoreline models alias churn champion 20261101T120000Z-0a1b2
scoreline models alias churn champion 20261101T120000Z-0a1b2 \\
    --force --reason "new feature, agreed with risk"
scoreline models alias churn champion --rollback
scoreline models alias churn champion
""",
)
@click.argument("name")
@click.argument("alias")
@click.argument("version", required=False)
@click.option(
    "--rollback", is_flag=True, help="Move the alias back to its previous version; repeat it to go further back."
)
@click.option(
    "--force",
    is_flag=True,
    help="Move the alias even if the version changes results or breaks a rule. Requires --reason.",
)
@click.option("--reason", default="", metavar="TEXT", help="Keep this reason in the history of the alias.")
def alias(name: str, alias: str, version: str | None, rollback: bool, force: bool, reason: str) -> None:
    """Move an alias to a version, or show its history.

    Moves ALIAS of model NAME to VERSION. Jobs that are already submitted keep their version. Without VERSION, print all
    changes of the alias, oldest first.

    VERSION is compared with the version that the alias names: features, columns of results, methods, metrics and
    checks. The alias `champion` is not moved to a version that has other features or columns, or that breaks a rule of
    [promote] in checks.toml, unless --force. Who moved the alias, and why, is kept in its history and in the audit. If
    MODEL_SIGNING_KEY is set, the change is signed.
    """
    connections = Connections(os.environ)
    registry = connections.registry
    if version is not None and rollback:
        raise click.UsageError("VERSION and --rollback exclude each other")
    if force and version is None:
        raise click.UsageError("--force needs a VERSION")
    if version is not None:
        find_run = partial(newest_comparison, connections.buckets)
        moved = promote(registry, name, alias, version, find_run, force=force, reason=reason)
        if moved.assessment is not None:
            _echo_assessment(moved.assessment)
        _echo_alias(name, moved.alias)
    elif rollback:
        _echo_alias(name, registry.rollback(name, alias, reason))
    else:
        if reason:
            raise click.UsageError("--reason needs a VERSION, or --rollback")
        found = registry.find_alias(name, alias)
        if found is None:
            registry.resolve(f"{name}@{alias}")  # raises an error that lists the aliases of the model
            return
        _echo_history(found, registry.alias_signers(name, found))


def _echo_alias(name: str, alias: Alias) -> None:
    click.echo(f"{name}@{alias.name} -> {alias.version} (change {alias.seq})")


def _echo_assessment(found: Assessment) -> None:
    """Print how a version differs from the one before, on standard error."""
    echo(f"compared with {found.before}:", err=True)
    for name, text in found.lines:
        echo(f"  {name:<{_NAME_WIDTH - 2}}{text}", indent=_NAME_WIDTH, err=True)
    for obstacle in found.obstacles:
        echo(f"  {'forced':<{_NAME_WIDTH - 2}}{obstacle}", indent=_NAME_WIDTH, err=True)


def _echo_history(alias: Alias, signers: Sequence[str]) -> None:
    """Print the changes of an alias, oldest first.

    Parameters
    ----------
    signers : sequence of str
        Who signed each change (see `ModelRegistry.alias_signers`).
    """
    rows = []
    for change, signer in zip(alias.history, signers, strict=True):
        notes = [
            "<- now" if change is alias.current else "",
            "rollback" if change.rollback else "",
            "forced" if change.forced else "",
            f"by {change.who}" if change.who else "",
            f"signed by {signer}" if signer else "",
            change.reason,
        ]
        rows.append((str(change.seq), change.at, change.version, ", ".join(filter(None, notes))))
    print_table(("change", "at (UTC)", "version", ""), rows, wrapped=[""])
