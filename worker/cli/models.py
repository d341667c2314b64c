"""``scoreline models publish | list | show | alias``."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from storage.models.registry import ModelRegistry
from storage.objects.buckets import Buckets

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def models() -> None:
    """Publish models and name their versions."""


@models.command()
@click.argument("name")
@click.option("--model", required=True, type=_FILE, help="Fitted estimator, as joblib or pickle.")
@click.option("--preprocessor", type=_FILE, help="Fitted transformer that stands before the model.")
@click.option("--label-encoder", type=_FILE, help="Fitted LabelEncoder that stands behind it.")
@click.option("--alias", help="Name for the new version, champion say.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Kept in the manifest; may be given several times.")
def publish(
    name: str, model: Path, preprocessor: Path | None, label_encoder: Path | None, alias: str | None,
    metadata: tuple[str, ...],
) -> None:  # fmt: skip
    """Store a new version of NAME. Files are unpickled here: publish only what you trust."""
    from storage.models.bundle import unpickle  # scikit-learn, which the other commands do without
    from storage.models.manager import ModelStorageManager

    def read(path: Path | None) -> Any:
        return None if path is None else unpickle(io.BytesIO(path.read_bytes()), str(path))

    pairs = dict(item.partition("=")[::2] for item in metadata)
    manifest = ModelStorageManager.from_env().publish(
        name, read(model), read(preprocessor), read(label_encoder), alias=alias, metadata=pairs
    )
    click.echo(manifest.ref)


@models.command("list")
def list_models() -> None:
    """List models with their newest version and their aliases."""
    registry = _registry()
    table = Table("model", "versions", "newest", "aliases", box=None)
    for name in registry.names():
        versions = registry.versions(name)
        aliases = ", ".join(f"{alias.name} -> {alias.version}" for alias in registry.aliases(name))
        table.add_row(name, str(len(versions)), versions[-1], aliases)
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
@click.argument("name")
@click.argument("alias")
@click.argument("version")
def alias(name: str, alias: str, version: str) -> None:
    """Let ALIAS of NAME stand for VERSION."""
    new = _registry().alias(name, alias, version)
    click.echo(f"{name}@{new.name} -> {new.version} (change {new.seq})")


def _registry() -> ModelRegistry:
    return ModelRegistry(Buckets.from_env(os.environ, patient=False).main)
