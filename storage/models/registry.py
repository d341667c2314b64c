"""Names of models, without loading any: all of this works with `requirements.txt` alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from storage import keys
from storage.errors import InvalidRequest, ModelCorrupt, ModelNotFound, ObjectNotFound, PreconditionFailed
from storage.models.manifest import Manifest, PinnedModel, digest, parse_ref
from storage.objects.base import ObjectStore

_ALIAS_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A name that moves from version to version."""

    name: str
    version: str
    manifest_sha256: str
    seq: int
    """How often the alias was set."""


class ModelRegistry:
    """Resolves, lists and aliases model versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket that holds ``models/``.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def names(self) -> list[str]:
        """Names of all models that have a version."""
        return sorted({name for name, _ in self._published()})

    def versions(self, name: str) -> list[str]:
        """Return the published versions of a model, oldest first."""
        return sorted(version for _, version in self._published(keys.model_folder(name)))

    def resolve(self, ref: str) -> PinnedModel:
        """Pin ``name`` (its newest version), ``name@alias`` or ``name@version``.

        Raises
        ------
        ModelNotFound
            There is no such model, alias or version; the message says which there are.
        """
        name, which = parse_ref(ref)
        if which is not None and not keys.is_version(which):
            found = self._alias(name, which)
            if found is None:
                raise self._unknown(name, f"no alias {which!r}")
            return PinnedModel(name=name, version=found[0].version, manifest_sha256=found[0].manifest_sha256)
        version = which or next(reversed(self.versions(name)), None)
        if version is None:
            raise self._unknown(name, "no version")
        try:
            data = self._store.get(keys.manifest(name, version)).data
        except ObjectNotFound:
            raise self._unknown(name, f"no version {version!r}") from None
        return PinnedModel(name=name, version=version, manifest_sha256=digest(data))

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Read the manifest of a pinned version.

        Raises
        ------
        ModelCorrupt
            The stored manifest is not the one that was pinned.
        """
        try:
            data = self._store.get(keys.manifest(pinned.name, pinned.version)).data
        except ObjectNotFound:
            raise ModelNotFound(f"model {pinned.ref} was deleted") from None
        if digest(data) != pinned.manifest_sha256:
            raise ModelCorrupt(f"manifest of {pinned.ref} is not the one that was pinned: it was altered")
        return Manifest.from_json(data, pinned.ref)

    def show(self, ref: str) -> Manifest:
        """Read the manifest that `ref` stands for (errors as `resolve`)."""
        return self.manifest(self.resolve(ref))

    def aliases(self, name: str) -> list[Alias]:
        """All aliases of a model, by name."""
        folder = keys.aliases_folder(name)
        names = [info.key.removeprefix(folder).removesuffix(".json") for info in self._store.list(folder)]
        return [found[0] for alias in names if (found := self._alias(name, alias))]

    def alias(self, name: str, alias: str, version: str) -> Alias:
        """Let `alias` name `version`, by compare-and-swap: of two setters at once, none is lost.

        Raises
        ------
        ModelNotFound
            There is no such version.
        """
        if keys.is_version(alias):
            raise InvalidRequest(f"alias {alias!r} has the form of a version")
        pinned = self.resolve(f"{name}@{version}")
        key = keys.alias(name, alias)
        for _ in range(_ALIAS_TRIES):
            current = self._alias(name, alias)
            new = Alias(
                name=alias,
                version=pinned.version,
                manifest_sha256=pinned.manifest_sha256,
                seq=current[0].seq + 1 if current else 1,
            )
            data = json.dumps({"version": new.version, "manifest_sha256": new.manifest_sha256, "seq": new.seq}).encode()
            try:
                if current is None:
                    self._store.put(key, data, create_only=True)
                else:
                    self._store.put(key, data, if_match=current[1])
            except PreconditionFailed:
                continue
            return new
        raise InvalidRequest(f"alias {name}@{alias} was changed by others {_ALIAS_TRIES} times: try again")

    def _alias(self, name: str, alias: str) -> tuple[Alias, str] | None:
        """Return an alias and the ETag of its object."""
        try:
            stored = self._store.get(keys.alias(name, alias))
        except ObjectNotFound:
            return None
        try:
            return Alias(name=alias, **json.loads(stored.data)), stored.info.etag
        except (ValueError, TypeError) as error:
            raise ModelCorrupt(f"alias {name}@{alias} cannot be read: {error}") from error

    def _published(self, folder: str = keys.MODELS) -> Iterator[tuple[str, str]]:
        for info in self._store.list(folder):
            match info.key.removeprefix(keys.MODELS).split("/"):
                case [name, version, "manifest.json"] if keys.is_version(version):
                    yield name, version

    def _unknown(self, name: str, what: str) -> ModelNotFound:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none is published yet"
            return ModelNotFound(f"no model {name!r} in bucket {self._store.bucket!r} (models: {known})")
        aliases = ", ".join(alias.name for alias in self.aliases(name)) or "none"
        return ModelNotFound(f"model {name!r} has {what} (versions: {', '.join(versions[-3:])}; aliases: {aliases})")
