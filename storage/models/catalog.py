"""Reads all models of a bucket with their versions and aliases. This takes one listing, and one request for each alias.

A listing shows which aliases exist. The object of an alias contains the version that it names. Several releases of
Scoreline may change this object by compare-and-swap. A single document for all aliases would save requests, but could
differ from the objects.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from scoreline.storage import keys
from scoreline.storage.models import aliases
from scoreline.storage.models.aliases import Alias
from scoreline.storage.objects.base import ObjectStore


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model that has at least one version."""

    name: str
    versions: tuple[str, ...]
    """The published versions, oldest first."""
    aliases: tuple[Alias, ...]
    """The aliases that can be read, sorted by name."""


def read(store: ObjectStore) -> list[ListedModel]:
    """Return all models, sorted by name."""
    versions: dict[str, list[str]] = defaultdict(list)
    named: list[tuple[str, str]] = []
    for info in store.list(keys.MODELS):
        match info.key.removeprefix(keys.MODELS).split("/"):
            case [name, version, "manifest.json"] if keys.is_name(name) and keys.is_version(version):
                versions[name].append(version)
            case [name, "aliases", file] if keys.is_name(name) and (alias := aliases.name_of(file)):
                named.append((name, alias))
    found: dict[str, list[Alias]] = defaultdict(list)
    for name, alias_read in aliases.read_all(store, sorted(pair for pair in named if pair[0] in versions)):
        found[name].append(alias_read)
    return [
        ListedModel(name=name, versions=tuple(sorted(versions[name])), aliases=tuple(found[name]))
        for name in sorted(versions)
    ]
