"""``scoreline models publish | list | show | verify | alias | delete | keygen | sign``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from scoreline.storage.errors import InvalidRequest, InvalidSettings, ModelError
from scoreline.storage.models import signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.manifest import Role
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.client import Client

if TYPE_CHECKING:
    from scoreline.storage.models.manager import ModelStorageManager
    from scoreline.storage.models.trial_load import LooseArtifact


@click.group()
def models() -> None:
    """Publish models, name their versions, check them."""


@models.command()
@click.argument("name")
@click.option(
    "--model",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Fitted estimator, as joblib or pickle; several "
    "score the same rows and get output columns <NAME>_prediction, <NAME>_proba_<class>.",
)
@click.option(
    "--preprocessor",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Fitted transformer that stands before the models; several run in the order given.",
)
@click.option("--label-encoder", metavar="PATH", help="Fitted LabelEncoder that stands behind the classifiers.")
@click.option(
    "--from-bucket",
    multiple=True,
    metavar="NAME=KEY",
    help="Adopt an object that is in a bucket already (a key, or s3://bucket/key). NAME is a model's name, "
    "or preprocessor, preprocessor:NAME or label_encoder.",
)
@click.option("--alias", help="Name for the new version, champion say.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Kept in the manifest; may be given several times.")
def publish(
    name: str,
    model: tuple[str, ...],
    preprocessor: tuple[str, ...],
    label_encoder: str | None,
    from_bucket: tuple[str, ...],
    alias: str | None,
    metadata: tuple[str, ...],
) -> None:
    """Store a new version of NAME, from files or from objects in a bucket.

    \b
    scoreline models publish churn --model model.joblib --preprocessor scaler.joblib --alias champion
    scoreline models publish churn --model forest=rf.joblib --model linear=lr.joblib
    scoreline models publish churn --from-bucket model=old/rf.joblib --from-bucket preprocessor=old/scaler.joblib

    A fresh process has to load all of it before anything is stored. Loading runs code: publish only what you trust.
    Where MODEL_SIGNING_KEY is set, the version is signed.
    """
    manager = _manager()
    loose = [*_from_files("model", "model", model), *_from_files("preprocessor", "preprocessor", preprocessor)]
    if label_encoder is not None:
        loose += _from_files("label_encoder", "label_encoder", (label_encoder,))
    pairs: dict[str, object] = dict(_pair("--metadata", item) for item in metadata)
    adopted = {}
    for item in from_bucket:
        text, key = _pair("--from-bucket", item)
        role, artifact = _role(text)
        adopted[artifact], data = manager.fetch(key)
        loose.append(_loose(role, artifact, data, adopted[artifact]))
    if adopted:
        pairs["adopted_from"] = adopted
    click.echo(manager.publish_files(name, loose, alias=alias, metadata=pairs).ref)


@models.command("list")
@click.argument("name", required=False)
def list_models(name: str | None) -> None:
    """List models with their newest version and their aliases, or the versions of NAME."""
    registry = _registry()
    if name is not None:
        registry.resolve(name)
        table = Table("version", "aliases", box=None)
        aliases = registry.aliases(name)
        for version in registry.versions(name):
            table.add_row(version, ", ".join(alias.name for alias in aliases if alias.version == version))
    else:
        table = Table("model", "versions", "newest", "aliases", box=None)
        for model in registry.names():
            versions = registry.versions(model)
            named = ", ".join(f"{alias.name} -> {alias.version}" for alias in registry.aliases(model))
            table.add_row(model, str(len(versions)), versions[-1], named)
    Console().print(table)


@models.command()
@click.argument("ref")
def show(ref: str) -> None:
    """Show what REF (name, name@alias, name@version) is made of, as JSON."""
    shown = asdict(_registry().show(ref))
    for artifact in shown["artifacts"]:
        del artifact["chunks"]
    click.echo(json.dumps(shown, indent=1, ensure_ascii=False))


@models.command()
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every version of every model.")
def verify(refs: tuple[str, ...], everything: bool) -> None:
    """Read every byte of REFS and compare it with the manifest, and the signature where MODEL_VERIFY_KEYS is set.

    Nothing is unpickled. Exit code 1 where anything is wrong.
    """
    if not refs and not everything:
        raise click.UsageError("name what to verify, or say --all")
    manager = _manager()
    if everything:
        refs = tuple(f"{name}@{version}" for name, versions in manager.list().items() for version in versions)
    wrong = 0
    for ref in refs:
        try:
            manifest, signer = manager.verify(ref)
        except ModelError as error:
            wrong += 1
            click.echo(f"WRONG  {ref}: {error}")
        else:
            signed = f"signed by {signer}" if signer else "signature not asked for: MODEL_VERIFY_KEYS is not set"
            click.echo(f"ok     {manifest.ref}: {len(manifest.artifacts)} files, {manifest.size:,} bytes, {signed}")
    raise SystemExit(1 if wrong else 0)


@models.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--rollback", is_flag=True, help="Go back to what stood before; again, and it goes one further back.")
def alias(name: str, alias: str, version: str | None, rollback: bool) -> None:
    """Let ALIAS of NAME stand for VERSION; without VERSION, show its history.

    \b
    scoreline models alias churn champion 20261101T120000Z-0a1b2
    scoreline models alias churn champion --rollback
    scoreline models alias churn champion
    """
    registry = _registry()
    if version is not None and rollback:
        raise click.UsageError("give VERSION or --rollback, not both")
    if version is not None:
        _say(name, registry.alias(name, alias, version))
    elif rollback:
        _say(name, registry.rollback(name, alias))
    else:
        found = registry.find_alias(name, alias)
        if found is None:
            registry.resolve(f"{name}@{alias}")  # says which there are
            return
        table = Table("change", "at (UTC)", "version", "", box=None)
        for change in found.history:
            now = "<- now" if change is found.current else ""
            table.add_row(str(change.seq), change.at, change.version, "rollback " * change.rollback + now)
        Console().print(table)


@models.command()
@click.argument("ref")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(ref: str, yes: bool) -> None:
    """Remove the version that REF (name@version) stands for, for good.

    Refused while an alias names it or a job under way scores with it.
    """
    client = Client.from_env(os.environ)
    pinned = client.registry.resolve(ref)
    if "@" not in ref:
        raise InvalidRequest(f"say which version to delete: {pinned.ref}, for one")
    if not yes:
        click.confirm(f"delete {pinned.ref} for good?", abort=True)
    client.delete_model(pinned)
    click.echo(f"deleted {pinned.ref}")


@models.command()
def keygen() -> None:
    """Make a key pair, as two lines for an environment file.

    MODEL_SIGNING_KEY is a secret: set it only where models are published. MODEL_VERIFY_KEYS goes to the workers, which
    then load only what is signed. To change keys, give workers both verify keys (with a comma between), let `models
    sign` sign with the new one what is in use, then take the old one away.
    """
    signing, verifying = signatures.generate()
    click.echo(f"MODEL_SIGNING_KEY={signing}\nMODEL_VERIFY_KEYS={verifying}")


@models.command()
@click.argument("refs", nargs=-1, required=True)
def sign(refs: tuple[str, ...]) -> None:
    """Sign versions that are published already with MODEL_SIGNING_KEY; signatures of other keys stay."""
    key = ModelSettings.from_env(os.environ).signing_key
    if not key:
        raise InvalidSettings("MODEL_SIGNING_KEY is not set: make a pair with `scoreline models keygen`")
    registry = ModelRegistry(Buckets.from_env(os.environ, patient=False).main)
    for ref in refs:
        click.echo(f"signed {registry.sign(ref, key).ref}")


def _say(name: str, alias: Alias) -> None:
    click.echo(f"{name}@{alias.name} -> {alias.version} (change {alias.seq})")


def _from_files(role: Role, default: str, items: Iterable[str]) -> list[LooseArtifact]:
    loose = []
    for number, item in enumerate(items, 1):
        given, _, path = item.rpartition("=")
        if given and Path(item).is_file():  # a file whose name holds an equals sign
            given, path = "", item
        name = given or (default if number == 1 else f"{default}_{number}")
        try:
            loose.append(_loose(role, name, Path(path).read_bytes(), path))
        except OSError as error:
            raise click.BadParameter(f"{path}: {error.strerror}", param_hint=f"--{role.replace('_', '-')}") from None
    return loose


def _role(text: str) -> tuple[Role, str]:
    if text == "label_encoder":
        return "label_encoder", text
    if text.partition(":")[0] == "preprocessor":
        return "preprocessor", text.partition(":")[2] or "preprocessor"
    return "model", text


def _pair(option: str, item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise click.BadParameter(f"{item!r} is not of the form NAME=VALUE", param_hint=option)
    return name, value


def _needs_ml[T](make: Callable[[], T]) -> T:
    try:
        return make()
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"this needs {error.name}: pip install -r ml-requirements.txt") from error


def _loose(role: Role, name: str, data: bytes, source: str) -> LooseArtifact:
    from scoreline.storage.models.trial_load import LooseArtifact

    return LooseArtifact(role=role, name=name, data=data, source=source)


def _manager() -> ModelStorageManager:
    def make() -> ModelStorageManager:
        from scoreline.storage.models.manager import ModelStorageManager  # scikit-learn: most commands need none

        return ModelStorageManager.from_env()

    return _needs_ml(make)


def _registry() -> ModelRegistry:
    settings = ModelSettings.from_env(os.environ)
    return ModelRegistry(Buckets.from_env(os.environ, patient=False).main, verify_keys=settings.verify_keys)
