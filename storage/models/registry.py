"""Names of models, without loading any: all of this works with `requirements.txt` alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    ModelCorrupt,
    ModelInUse,
    ModelNotFound,
    ObjectNotFound,
    StoreUnavailable,
)
from scoreline.storage.models import aliases, signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.local_cache import LocalCopies
from scoreline.storage.models.manifest import Manifest, PinnedModel, digest, parse_ref
from scoreline.storage.objects.base import IfMatch, ObjectStore, create_once

log = logging.getLogger(__name__)


class ModelRegistry:
    """Resolves, lists, aliases and deletes model versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket that holds ``models/``.
    verify_keys : sequence of str
        Of these one has to have signed a manifest before it is handed out; none: signatures are not asked for.
    copies : LocalCopies, optional
        Where documents are kept, to be read when the store cannot be reached.
    """

    def __init__(
        self, store: ObjectStore, *, verify_keys: Sequence[str] = (), copies: LocalCopies | None = None
    ) -> None:
        self._store = store
        self._verify_keys = tuple(verify_keys)
        self._copies = copies

    def names(self) -> list[str]:
        """Names of all models that have a version."""
        return sorted({name for name, _ in self._published(keys.MODELS)})

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
            try:
                now = aliases.parse(name, which, self._document(keys.alias(name, which))).current
            except ObjectNotFound:
                raise self._unknown(name, f"no alias {which!r}") from None
            return PinnedModel(name=name, version=now.version, manifest_sha256=now.manifest_sha256)
        version = which or next(reversed(self.versions(name)), None)
        if version is None:
            raise self._unknown(name, "no version")
        try:
            data = self._document(keys.manifest(name, version))
        except ObjectNotFound:
            raise self._unknown(name, f"no version {version!r}") from None
        return PinnedModel(name=name, version=version, manifest_sha256=digest(data))

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Read the manifest of a pinned version; whatever is loaded goes through here first.

        Raises
        ------
        ModelCorrupt
            The stored manifest is not the one that was pinned, or another version's.
        ModelUntrusted
            There are verify keys, and none of them signed it.
        """
        data = self._pinned_bytes(pinned)
        self._signer(pinned, data)
        return Manifest.from_json(data, pinned.ref)

    def signer(self, pinned: PinnedModel) -> str | None:
        """Return the id of the trusted key that signed; None where there are no verify keys (errors as `manifest`)."""
        return self._signer(pinned, self._pinned_bytes(pinned))

    def show(self, ref: str) -> Manifest:
        """Read the manifest that `ref` stands for (errors as `resolve` and `manifest`)."""
        return self.manifest(self.resolve(ref))

    def sign(self, ref: str, signing_key: str) -> PinnedModel:
        """Add a signature to a published version: to one that has none, or before an older key is given up."""
        pinned = self.resolve(ref)
        data = self._pinned_bytes(pinned)
        Manifest.from_json(data, pinned.ref)
        line = signatures.sign(data, signing_key)
        key = keys.signature(pinned.name, pinned.version)
        try:
            stored = self._store.get(key)
        except ObjectNotFound:
            create_once(self._store, key, line.encode())
            return pinned
        if line not in stored.data.decode(errors="replace"):
            self._store.put(key, stored.data + line.encode(), mode=IfMatch(stored.info.etag))
        return pinned

    def aliases(self, name: str) -> list[Alias]:
        """All aliases of a model, by name."""
        folder = keys.aliases_folder(name)
        names = [info.key.removeprefix(folder).removesuffix(".json") for info in self._store.list(folder)]
        return [found for alias in names if (found := self.find_alias(name, alias))]

    def find_alias(self, name: str, alias: str) -> Alias | None:
        """Return an alias with its history, if there is one."""
        found = aliases.read(self._store, name, alias)
        return found[0] if found else None

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
        self.manifest(pinned)  # what workers would refuse is not named
        return self._move(name, alias, lambda _: pinned)

    def rollback(self, name: str, alias: str) -> Alias:
        """Let `alias` name what it named before; again, and it goes one further back.

        Raises
        ------
        ModelNotFound
            There is no such alias, or what it named before was deleted.
        InvalidRequest
            It named nothing before.
        """

        def previous(current: Alias | None) -> PinnedModel:
            if current is None:
                raise self._unknown(name, f"no alias {alias!r}")
            target = current.previous
            if target is None:
                raise InvalidRequest(f"{name}@{alias} named nothing before {current.version}: no way back")
            pinned = PinnedModel(name=name, version=target.version, manifest_sha256=target.manifest_sha256)
            self._check_there(pinned)
            self.manifest(pinned)
            return pinned

        return self._move(name, alias, previous, rollback=True)

    def delete(self, pinned: PinnedModel, refuse_used: Callable[[PinnedModel], None]) -> None:
        """Remove a version for good.

        Parameters
        ----------
        pinned : PinnedModel
            What to remove.
        refuse_used : callable
            Raises `ModelInUse` where something besides an alias needs the version; asked before and after, since
            somebody may begin to in between.

        Raises
        ------
        ModelInUse
            An alias names it, or `refuse_used` says so. The version stays.
        """

        def refuse() -> None:
            self._refuse_aliased(pinned)
            refuse_used(pinned)

        refuse()
        key = keys.manifest(pinned.name, pinned.version)
        data = self._store.get(key).data
        self._store.delete(key)  # first: from now on the version does not exist
        try:
            refuse()
        except ModelInUse:
            create_once(self._store, key, data)
            raise
        for info in list(self._store.list(keys.version_folder(pinned.name, pinned.version))):
            self._store.delete(info.key)

    def _move(
        self, name: str, alias: str, choose: Callable[[Alias | None], PinnedModel], *, rollback: bool = False
    ) -> Alias:
        new = aliases.move(self._store, name, alias, choose, rollback=rollback)
        now = new.current
        self._check_there(PinnedModel(name=name, version=now.version, manifest_sha256=now.manifest_sha256))
        return new

    def _check_there(self, pinned: PinnedModel) -> None:
        try:
            self._store.head(keys.manifest(pinned.name, pinned.version))
        except ObjectNotFound:
            raise ModelNotFound(f"model {pinned.ref} was deleted: let the alias name another version") from None

    def _refuse_aliased(self, pinned: PinnedModel) -> None:
        names = [alias.name for alias in self.aliases(pinned.name) if alias.version == pinned.version]
        if names:
            raise ModelInUse(f"{pinned.ref} is what {', '.join(names)} stands for: let the alias name another first")

    def _pinned_bytes(self, pinned: PinnedModel) -> bytes:
        try:
            data = self._document(keys.manifest(pinned.name, pinned.version))
        except ObjectNotFound:
            raise ModelNotFound(f"model {pinned.ref} was deleted") from None
        if digest(data) != pinned.manifest_sha256:
            raise ModelCorrupt(f"manifest of {pinned.ref} is not the one that was pinned: it was altered")
        return data

    def _signer(self, pinned: PinnedModel, manifest: bytes) -> str | None:
        if not self._verify_keys:
            return None
        lines: bytes | None
        try:
            lines = self._document(keys.signature(pinned.name, pinned.version))
        except ObjectNotFound:
            lines = None
        return signatures.verify(manifest, lines, self._verify_keys, pinned.ref)

    def _document(self, key: str) -> bytes:
        """Read a small object; from its local copy where the store cannot be reached."""
        try:
            data = self._store.get(key).data
        except StoreUnavailable as error:
            data_kept = self._copies.document(key) if self._copies else None
            if data_kept is None:
                raise
            log.warning("models.served_from_copy", extra={"key": key, "error": str(error)})
            return data_kept
        if self._copies:
            self._copies.keep_document(key, data)
        return data

    def _published(self, folder: str) -> Iterator[tuple[str, str]]:
        try:
            found = [info.key for info in self._store.list(folder)]
        except StoreUnavailable as error:
            found = self._copies.documents(folder) if self._copies else []
            if not found:
                raise
            log.warning("models.listed_from_copies", extra={"folder": folder, "error": str(error)})
        for key in found:
            match key.removeprefix(keys.MODELS).split("/"):
                case [name, version, "manifest.json"] if keys.is_version(version):
                    yield name, version

    def _unknown(self, name: str, what: str) -> ModelNotFound:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none is published yet"
            return ModelNotFound(f"no model {name!r} in bucket {self._store.bucket!r} (models: {known})")
        names = ", ".join(alias.name for alias in self.aliases(name)) or "none"
        return ModelNotFound(f"model {name!r} has {what} (versions: {', '.join(versions[-3:])}; aliases: {names})")
