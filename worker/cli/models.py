"""``scoreline models list | show | verify | alias | delete | gc | keygen | sign``: manages models."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from scoreline.storage.errors import InvalidRequest, InvalidSettings, ModelError, ModelUntrusted
from scoreline.storage.models import signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.retention.versions import collect_versions
from scoreline.worker.cli.alias import alias
from scoreline.worker.cli.convert import convert
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.model_access import model_manager, model_registry, read_baseline
from scoreline.worker.cli.model_view import echo_manifest, summary, version_cells
from scoreline.worker.cli.output import echo, echo_json, print_table
from scoreline.worker.cli.publish import publish

_THREADS = 8
"""Number of manifests that are read at once."""


@click.group(
    cls=Group,
    epilog="""\
scoreline models publish churn --model model.joblib --alias champion
scoreline models list churn
scoreline models alias churn champion --rollback
""",
)
def models() -> None:
    """Publish models and manage their versions.

    A model has versions and aliases. A version never changes, and an alias names one version. Other commands accept
    NAME (the newest version), NAME@ALIAS or NAME@VERSION.
    """


models.add_command(publish)
models.add_command(convert)
models.add_command(alias)


@models.command(
    "list",
    epilog="""\
scoreline models list
scoreline models list churn
""",
)
@click.argument("name", required=False)
def list_models(name: str | None) -> None:
    """List all models, or all versions of a model.

    Without NAME, print each model with its newest version, when this version was published, its features, size and
    metric, and the aliases of the model. With NAME, print the versions of that model, oldest first. The
    metric is the first of AUC, accuracy, R2 and MAE that `publish --target` has computed.
    """
    registry = model_registry()
    if name is not None:
        registry.resolve(name)
        aliases, versions = registry.aliases(name), registry.versions(name)
        rows = []
        for version, manifest in zip(versions, _manifests(registry, [(name, v) for v in versions]), strict=True):
            named = ", ".join(alias.name for alias in aliases if alias.version == version)
            rows.append((version, *version_cells(manifest), named))
        headings = ("version", "published", "metrics", "features", "size", "aliases")
        print_table(headings, rows, wrapped=["aliases", "metrics"])
        return
    models, catalog = [], registry.catalog()
    newest = _manifests(registry, [(model.name, model.versions[-1]) for model in catalog])
    for model, manifest in zip(catalog, newest, strict=True):
        last = model.versions[-1]
        named = "\n".join(f"{it.name} -> {'newest' if it.version == last else it.version}" for it in model.aliases)
        models.append((model.name, str(len(model.versions)), last, summary(manifest), named))
    columns = ("model", "versions", "newest", "about", "aliases")
    print_table(columns, models, wrapped=["aliases", "about"], cut=["model"])


def _manifests(registry: ModelRegistry, versions: Sequence[tuple[str, str]]) -> list[Manifest | None]:
    """Return the manifests of versions; None for a manifest that cannot be read, or is not trusted."""

    def read(version: tuple[str, str]) -> Manifest | None:
        try:
            return registry.published(*version)
        except ModelError:
            return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="manifests") as pool:
        return list(pool.map(read, versions))


@models.command(
    epilog="""\
scoreline models show churn
scoreline models show churn@champion --json
"""
)
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON, for programs.")
def show(ref: str, as_json: bool) -> None:
    """Show a version: its files, features, outputs, metrics and baseline.

    REF is NAME, NAME@ALIAS or NAME@VERSION. The baseline is the profile of the training data: a line for each feature
    and score, with mean, standard deviation, share of nulls, and the range or the most frequent value.

    If MODEL_VERIFY_KEYS is set, each alias is shown with the key that signed its last change, and with a warning if its
    history was altered.

    With --json, print the manifest, without the digests of single chunks.
    """
    registry = model_registry()
    manifest = registry.show(ref)
    if as_json:
        shown = asdict(manifest)
        for artifact in shown["artifacts"]:
            del artifact["chunks"]
        echo_json(shown)
        return
    aliases = [alias for alias in registry.aliases(manifest.name) if alias.version == manifest.version]
    named = [_with_signer(registry, manifest.name, alias) for alias in aliases]
    echo_manifest(manifest, named, read_baseline(registry, manifest))


def _with_signer(registry: ModelRegistry, name: str, alias: Alias) -> str:
    """Return the name of an alias; if signatures are verified, with who signed its last change."""
    if not registry.verifies:
        return alias.name
    try:
        signer = registry.alias_signers(name, alias)[-1]
    except ModelUntrusted:
        return f"{alias.name} (its history was altered: `scoreline models verify {name}`)"
    return f"{alias.name} ({f'signed by {signer}' if signer else 'its last change is not signed by a trusted key'})"


@models.command(
    epilog="""\
scoreline models verify churn@champion fraud
scoreline models verify --all
"""
)
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Verify every version of every model.")
def verify(refs: tuple[str, ...], everything: bool) -> None:
    """Verify that versions of models are unchanged.

    Reads all files of REFS and compares them with the digests in the manifest. If MODEL_VERIFY_KEYS is set, verifies
    the signature too, and the signed changes of all aliases of these models. Nothing is unpickled. This command needs
    the packages of ml-requirements.txt.

    The exit code is 1 if a version is not intact.
    """
    if not refs and not everything:
        raise click.UsageError("name the versions to verify, or use --all")
    manager = model_manager()
    if everything:
        refs = tuple(f"{name}@{version}" for name, versions in manager.list().items() for version in versions)
    wrong = 0
    for ref in refs:
        try:
            manifest, signer = manager.verify(ref)
        except ModelError as error:
            wrong += 1
            echo(f"WRONG  {ref}: {error}", indent=7)
        else:
            signed = f"signed by {signer}" if signer else "signature not verified, because MODEL_VERIFY_KEYS is not set"
            attachments = manifest.attachments.values()
            files = plural(len(manifest.artifacts) + len(attachments), "file")
            size = manifest.size + sum(attachment.size for attachment in attachments)
            echo(f"ok     {manifest.ref}: {files}, {size:,} bytes, {signed}", indent=7)
    for name in dict.fromkeys(ref.partition("@")[0] for ref in refs):
        for found in manager.registry.aliases(name):
            try:
                signers = manager.registry.alias_signers(name, found)
            except ModelUntrusted as error:
                wrong += 1
                echo(f"WRONG  {error}", indent=7)
                continue
            if any(signers):
                count = sum(map(bool, signers))
                echo(f"ok     {name}@{found.name}: {count} of {plural(len(signers), 'change')} signed", indent=7)
    raise SystemExit(1 if wrong else 0)


@models.command(
    epilog="""\
scoreline models delete churn@20261101T120000Z-0a1b2
scoreline models delete churn@20261101T120000Z-0a1b2 --yes
"""
)
@click.argument("ref")
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
def delete(ref: str, yes: bool) -> None:
    """Delete a version of a model permanently.

    REF has the form NAME@VERSION. A version cannot be deleted while an alias names it, or while a job under way scores
    with it.
    """
    client = Client.from_env(os.environ)
    pinned = client.registry.resolve(ref)
    if "@" not in ref:
        raise InvalidRequest(f"{ref} has several versions: name the one to delete, for example {pinned.ref}")
    client.submission.check_unused(pinned)
    if not yes:
        click.confirm(f"delete {pinned.ref} for good?", abort=True)
    client.delete_model(pinned)
    click.echo(f"deleted {pinned.ref}")


@models.command(
    epilog="""\
scoreline models gc --keep 10 --dry-run
scoreline models gc --keep 10
"""
)
@click.option(
    "--keep", required=True, type=click.IntRange(min=1), metavar="N", help="Keep the newest N versions of each model."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed and what stays, and remove nothing.")
def gc(keep: int, dry_run: bool) -> None:
    """Remove old versions of models.

    Keeps the newest N versions of each model. Also keeps each version that a schedule or an alias names, or that an
    alias can be rolled back to, and each version of a job that is under way, that can be resumed, or whose results are
    kept (see `scoreline gc`).
    """
    report = collect_versions(Connections(os.environ).buckets.main, keep, dry_run=dry_run)
    if report.removed:
        rows = [(item.ref, f"{len(item.objects):,}", f"{item.size:,}") for item in report.removed]
        print_table(("version", "objects", "bytes"), rows, cut=["version"])
    size = sum(item.size for item in report.removed)
    verb = "would be removed" if dry_run else "removed"
    echo(f"{verb}: {plural(len(report.removed), 'version')}, {size:,} bytes")
    echo(f"kept: {plural(report.newest, 'version')} (among the newest {keep:,} of their models)")
    for item, why in report.kept:
        echo(f"kept: {item.ref}: {why}", indent=6)


@models.command(epilog="scoreline models keygen\n")
def keygen() -> None:
    """Make a key pair for signing models.

    Prints two lines for an environment file. MODEL_SIGNING_KEY is a secret: set it only where models are published. Set
    MODEL_VERIFY_KEYS for the workers, which then load only signed models.

    To change keys, first set both verify keys for the workers, with a comma in between. Then sign the versions in use
    with the new key (`scoreline models sign`). Finally, remove the old verify key.
    """
    signing, verifying = signatures.generate_keys()
    click.echo(f"MODEL_SIGNING_KEY={signing}\nMODEL_VERIFY_KEYS={verifying}")


@models.command(
    epilog="""\
scoreline models sign churn@20261101T120000Z-0a1b2
scoreline models sign churn@20261101T120000Z-0a1b2 \\
    --sha256 "$(cat churn.sha256)"
"""
)
@click.argument("refs", nargs=-1, required=True)
@click.option(
    "--sha256",
    metavar="DIGEST",
    help="Sign only if the manifest of the version has this SHA-256, which `scoreline models publish` printed.",
)
def sign(refs: tuple[str, ...], sha256: str | None) -> None:
    """Sign published versions of models.

    Signs each of REFS (NAME@VERSION) with MODEL_SIGNING_KEY. Signatures by other keys are kept.

    If a key in MODEL_VERIFY_KEYS has already signed a version, this command signs without a question. Otherwise, this
    command asks for the version and the SHA-256 of the manifest (or use --sha256). Take both from the person who
    published the model, because anyone with write access to the bucket can put a model there.
    """
    if sha256 is not None and len(refs) > 1:
        raise click.UsageError("--sha256 belongs to one version: sign each with its own")
    settings = ModelSettings.from_env(os.environ)
    if not settings.signing_key:
        raise InvalidSettings("MODEL_SIGNING_KEY is not set: make a key pair with `scoreline models keygen`")
    registry = ModelRegistry(Connections(os.environ).buckets.main, verify_keys=settings.verify_keys)
    for ref in refs:
        first = sha256 is None and not registry.is_signed(ref, settings.signing_key)
        digest = _ask_for_digest(ref) if first else sha256
        click.echo(f"signed {registry.sign(ref, settings.signing_key, sha256=digest).ref}")


def _ask_for_digest(ref: str) -> str | None:
    """Ask for the digest that a first signature requires. Return None without a terminal."""
    echo(f"no key in MODEL_VERIFY_KEYS has signed {ref}: workers will run its code once it is signed", err=True)
    try:
        version = click.prompt("its version", err=True)
        digest = click.prompt("the SHA-256 of its manifest, as it was printed when it was published", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        return None
    if version.strip() != ref.partition("@")[2]:
        raise InvalidRequest(f"{version!r} is not the version in {ref}: nothing was signed")
    return str(digest)
