"""The registry of model versions: it resolves, lists and deletes versions without loading models.

This module needs only the packages in `requirements.txt`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from scoreline.storage import audit, keys
from scoreline.storage.errors import (
    InvalidRequest,
    ModelCorrupt,
    ModelInUse,
    ModelNotFound,
    ModelUntrusted,
    ObjectNotFound,
    StoreUnavailable,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import aliases, attachments, catalog, signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.catalog import ListedModel
from scoreline.storage.models.local_cache import LocalCache
from scoreline.storage.models.manifest import Manifest, PinnedModel, parse_ref
from scoreline.storage.models.removed import read_removed
from scoreline.storage.objects.base import IfMatch, ObjectStore, create_once

log = logging.getLogger(__name__)


class ModelRegistry:
    """Resolves, lists, aliases and deletes model versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains ``models/``.
    verify_keys : sequence of str
        Trusted keys. Every manifest must be signed with at least one trusted key. If empty, signatures are not checked.
    local_cache : LocalCache, optional
        Cache for manifests, signatures and aliases. The cache is used when the store cannot be reached.
    signing_key : str
        Key that signs changes of aliases. If empty, they are not signed.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        verify_keys: Sequence[str] = (),
        local_cache: LocalCache | None = None,
        signing_key: str = "",
    ) -> None:
        self._store = store
        self._signing_key = signing_key
        self._verify_keys = tuple(verify_keys)
        self._local_cache = local_cache

    def names(self) -> list[str]:
        """Return the names of all models that have at least one version."""
        return sorted({name for name, _ in self._published(keys.MODELS)})

    def catalog(self) -> list[ListedModel]:
        """Return all models with their versions and aliases. This takes one listing, and one request for each alias."""
        return catalog.read(self._store)

    def versions(self, name: str) -> list[str]:
        """Return the published versions of a model, oldest first."""
        return sorted(version for _, version in self._published(keys.model_folder(name)))

    def resolve(self, ref: str) -> PinnedModel:
        """Find and pin the version for ``name@version``, ``name@alias`` or ``name`` (the newest version).

        Raises
        ------
        ModelNotFound
            There is no such model, alias or version. The message lists the existing models, aliases or versions.
        """
        name, which = parse_ref(ref)
        if which is not None and not keys.is_version(which):
            try:
                target = aliases.parse(name, which, self._read_document(keys.alias(name, which))).current
            except ObjectNotFound:
                raise self._not_found(name, f"no alias {which!r}") from None
            return PinnedModel(name=name, version=target.version, manifest_sha256=target.manifest_sha256)
        version = which or next(reversed(self.versions(name)), None)
        if version is None:
            raise self._not_found(name, "no version")
        try:
            data = self._read_document(keys.manifest(name, version))
        except ObjectNotFound:
            if (removed := read_removed(self._store, name, version)) is not None:
                raise ModelNotFound(f"model {removed.model} was removed on {removed.at[:10]}: {removed.why}") from None
            raise self._not_found(name, f"no version {version!r}") from None
        return PinnedModel(name=name, version=version, manifest_sha256=sha256_hex(data))

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Read and verify the manifest of a pinned version. Every load of a model starts with this call.

        Raises
        ------
        ModelNotFound
            The version was deleted.
        ModelCorrupt
            The stored manifest differs from the pinned manifest.
        ModelUntrusted
            Verify keys are set, but none of them has signed the manifest.
        """
        data = self._pinned_bytes(pinned)
        self._signer(pinned, data)
        return Manifest.from_json(data, pinned.ref)

    def signer(self, pinned: PinnedModel) -> str | None:
        """Return the id of the trusted key that signed the manifest, or None if no verify keys are set.

        The errors are the same as for `manifest`.
        """
        return self._signer(pinned, self._pinned_bytes(pinned))

    def attachment(self, manifest: Manifest, name: str) -> bytes | None:
        """Return the content of an attachment, such as ``checks.toml``, or None if the version has none of this name.

        The content is compared with the manifest. If the store cannot be reached, the local cache is read.

        Parameters
        ----------
        manifest : Manifest
            The manifest that `manifest` or `show` returned, and thus verified.
        name : str
            Name of the attachment.

        Raises
        ------
        ModelCorrupt
            The attachment is missing, or differs from the manifest.
        """
        expected = manifest.attachments.get(name)
        if expected is None:
            return None
        key = keys.artifact(manifest.name, manifest.version, name)
        cache = self._local_cache
        try:
            data = attachments.read(self._store, manifest.name, manifest.version, name, expected)
        except StoreUnavailable as error:
            cached = cache.document(key) if cache else None
            if cached is None:
                raise
            log.warning("models.served_from_copy", extra={"key": key, "error": str(error)})
            return attachments.check_content(cached, len(cached), expected, f"the copy of {self._store.uri(key)}")
        if cache:
            cache.keep_document(key, data)
        return data

    def published(self, name: str, version: str) -> Manifest:
        """Read and verify the manifest of a version as it is now, with a single read (errors as in `manifest`)."""
        ref = f"{name}@{version}"
        try:
            data = self._read_document(keys.manifest(name, version))
        except ObjectNotFound:
            raise ModelNotFound(f"model {ref} was deleted: use another version") from None
        self._signer(PinnedModel(name=name, version=version, manifest_sha256=sha256_hex(data)), data)
        return Manifest.from_json(data, ref)

    def show(self, ref: str) -> Manifest:
        """Resolve `ref` and read the manifest of the version (errors as in `resolve` and `manifest`)."""
        return self.manifest(self.resolve(ref))

    def is_signed(self, ref: str, signing_key: str) -> bool:
        """Return whether a trusted key, or `signing_key` itself, has signed the version ``name@version``."""
        pinned = self._version_to_sign(ref)
        return self._is_trusted(pinned, self._pinned_bytes(pinned), signing_key)

    def _is_trusted(self, pinned: PinnedModel, data: bytes, signing_key: str) -> bool:
        try:
            self._verify(pinned, data, (*self._verify_keys, signatures.verify_key_of(signing_key)))
        except ModelUntrusted:
            return False
        return True

    def sign(self, ref: str, signing_key: str, *, sha256: str | None = None) -> PinnedModel:
        """Add a signature to a published version, for example while a signing key is being replaced.

        Anyone with write access to the bucket can publish a version there. Therefore, a version without a trusted
        signature is signed only if the caller passes its digest.

        Parameters
        ----------
        ref : str
            ``name@version``. An alias is not accepted, because it could be moved to another version meanwhile.
        sha256 : str, optional
            Expected digest of the manifest. The digest is required if no trusted key has signed the version. Get the
            digest from the person who published the version, not from the bucket.

        Raises
        ------
        ModelNotFound, ModelCorrupt
            There is no such version, or its manifest cannot be read.
        ModelUntrusted
            No trusted key has signed the version and no digest is given, or the given digest differs.
        """
        pinned = self._version_to_sign(ref)
        data = self._pinned_bytes(pinned)
        Manifest.from_json(data, pinned.ref)
        if sha256 is not None and sha256.strip().lower() != pinned.manifest_sha256:
            raise ModelUntrusted(f"the manifest of {pinned.ref} does not have this SHA-256: do not trust this version")
        if sha256 is None and not self._is_trusted(pinned, data, signing_key):  # the bytes that are signed below
            raise ModelUntrusted(
                f"{pinned.ref} is not signed by a key in MODEL_VERIFY_KEYS. Its first signature needs the SHA-256 of "
                "its manifest, which `scoreline models publish` printed: sign it with --sha256"
            )
        line = signatures.sign(data, signing_key)
        key = keys.signature(pinned.name, pinned.version)
        audit.record(self._store, action="model.sign", target=pinned.ref, details={"key": line.partition(" ")[0]})
        try:
            stored = self._store.get(key)
        except ObjectNotFound:
            create_once(self._store, key, line.encode())
            return pinned
        if line not in stored.data.decode(errors="replace"):
            self._store.put(key, stored.data + line.encode(), mode=IfMatch(stored.info.etag))
        return pinned

    def _version_to_sign(self, ref: str) -> PinnedModel:
        which = parse_ref(ref)[1]
        if which is None or not keys.is_version(which):
            raise InvalidRequest(
                f"{ref!r} does not name a version: sign NAME@VERSION, because an alias or the newest version may be "
                "another one by now"
            )
        return self.resolve(ref)

    def aliases(self, name: str) -> list[Alias]:
        """Return all aliases of a model, sorted by name.

        Other objects in the folder are left out. Aliases that cannot be read are left out with a warning.
        """
        named = [(name, alias) for alias in self._alias_names(name)]
        return [alias for _, alias in aliases.read_all(self._store, named)]

    def find_alias(self, name: str, alias: str) -> Alias | None:
        """Return an alias with its history, or None if there is no such alias."""
        return aliases.read(self._store, name, alias)

    def alias(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        check: Callable[[Alias | None, PinnedModel], None] | None = None,
        reason: str = "",
        forced: bool = False,
    ) -> Alias:
        """Set `alias` to `version` by compare-and-swap, so that no concurrent change is lost.

        Parameters
        ----------
        check : callable, optional
            Receives the current alias, or None if it is new, and the version. It raises an error if the alias must not
            be moved, and is called again if another writer has changed the alias meanwhile.
        reason, forced
            As for `scoreline.storage.models.aliases.move`.

        Raises
        ------
        ModelNotFound
            There is no such version.
        InvalidRequest
            The name of the alias has the same format as a version.
        """
        if keys.is_version(alias):
            raise InvalidRequest(f"alias {alias!r} has the form of a version: choose another name")
        pinned = self.resolve(f"{name}@{version}")
        self.manifest(pinned)  # an alias must not name a version that workers would refuse

        def choose(current: Alias | None) -> PinnedModel:
            if check is not None:
                check(current, pinned)
            return pinned

        return self._move(name, alias, choose, reason=reason, forced=forced)

    def rollback(self, name: str, alias: str, reason: str = "") -> Alias:
        """Set `alias` back to its previous version. Each further rollback goes back one more version.

        Raises
        ------
        ModelNotFound
            There is no such alias, or the earlier version was deleted.
        InvalidRequest
            The alias has no previous version.
        """

        def previous(current: Alias | None) -> PinnedModel:
            if current is None:
                raise self._not_found(name, f"no alias {alias!r}")
            target = current.previous
            if target is None:
                raise InvalidRequest(f"cannot roll back {name}@{alias}: it named no version before {current.version}")
            pinned = PinnedModel(name=name, version=target.version, manifest_sha256=target.manifest_sha256)
            self._check_exists(pinned)
            self.manifest(pinned)
            return pinned

        return self._move(name, alias, previous, rollback=True, reason=reason)

    @property
    def verifies(self) -> bool:
        """Whether there are trusted keys, so that signatures are verified."""
        return bool(self._verify_keys)

    def alias_signers(self, name: str, alias: Alias) -> list[str]:
        """Return who signed each change of an alias: the id of a trusted key; empty if no trusted key has signed it.

        Raises
        ------
        ModelUntrusted
            A signature by a trusted key does not match its change, or changes are not in their order, so the history
            was altered.
        """
        trusted = {signatures.key_id(signatures.check_key("verify", key)) for key in self._verify_keys}
        signers: list[str] = []
        last = 0
        for change in alias.history:
            if trusted and change.seq <= last:  # a signed change may have been copied to another place
                raise ModelUntrusted(
                    f"change {change.seq} of {name}@{alias.name} comes after change {last}: its history was altered. "
                    "Compare it with `scoreline audit`, and set the alias again"
                )
            last = change.seq
            signer = change.signature.partition(" ")[0]
            signers.append(signer if signer in trusted else "")
            if signers[-1]:
                data = aliases.statement(name, alias.name, change)
                try:
                    signatures.verify(data, change.signature.encode(), self._verify_keys, alias.name)
                except ModelUntrusted:
                    raise ModelUntrusted(
                        f"change {change.seq} of {name}@{alias.name} does not match its signature by key {signer}: its "
                        "history was altered. Compare it with `scoreline audit`, and set the alias again"
                    ) from None
        return signers

    def delete(self, pinned: PinnedModel, check_unused: Callable[[PinnedModel], None]) -> None:
        """Delete a version permanently.

        Parameters
        ----------
        pinned : PinnedModel
            The version to delete.
        check_unused : callable
            Raises `ModelInUse` if anything other than an alias needs the version, such as a job. The function is called
            before and after the manifest is deleted, because a job may start to use the version in between.

        Raises
        ------
        ModelInUse
            An alias names the version, or `check_unused` raised this error. The version is not deleted.
        """

        def check() -> None:
            self.check_no_alias(pinned)
            check_unused(pinned)

        check()
        audit.record(self._store, action="model.delete", target=pinned.ref, details={"sha256": pinned.manifest_sha256})
        key = keys.manifest(pinned.name, pinned.version)
        data = self._store.get(key).data
        self._store.delete(key)  # the version no longer exists from here on
        try:
            check()
        except ModelInUse:
            create_once(self._store, key, data)
            raise
        for info in list(self._store.list(keys.version_folder(pinned.name, pinned.version))):
            self._store.delete(info.key)

    def _move(
        self,
        name: str,
        alias: str,
        choose: Callable[[Alias | None], PinnedModel],
        *,
        rollback: bool = False,
        reason: str = "",
        forced: bool = False,
    ) -> Alias:
        key = self._signing_key
        new = aliases.move(
            self._store,
            name,
            alias,
            choose,
            rollback=rollback,
            reason=reason,
            forced=forced,
            sign=(lambda data: signatures.sign(data, key)) if key else None,
        )
        target = new.current
        self._check_exists(PinnedModel(name=name, version=target.version, manifest_sha256=target.manifest_sha256))
        return new

    def _check_exists(self, pinned: PinnedModel) -> None:
        try:
            self._store.head(keys.manifest(pinned.name, pinned.version))
        except ObjectNotFound:
            raise ModelNotFound(f"model {pinned.ref} was deleted: set the alias to another version") from None

    def check_no_alias(self, pinned: PinnedModel) -> None:
        """Raise `ModelInUse` if an alias names a version, or `ModelCorrupt` if an alias cannot be read."""
        found = [self.find_alias(pinned.name, alias) for alias in self._alias_names(pinned.name)]
        names = [alias.name for alias in found if alias is not None and alias.version == pinned.version]
        if names:
            raise ModelInUse(f"{pinned.ref} is named by {', '.join(names)}: set the alias to another version first")

    def _alias_names(self, name: str) -> list[str]:
        """Return the names of the objects that may be aliases of a model, sorted."""
        folder = keys.aliases_folder(name)
        names = [aliases.name_of(info.key.removeprefix(folder)) for info in self._store.list(folder)]
        return sorted(name for name in names if name is not None)

    def _pinned_bytes(self, pinned: PinnedModel) -> bytes:
        try:
            data = self._read_document(keys.manifest(pinned.name, pinned.version))
        except ObjectNotFound:
            raise ModelNotFound(f"model {pinned.ref} was deleted: use another version") from None
        if sha256_hex(data) != pinned.manifest_sha256:
            raise ModelCorrupt(f"the manifest of {pinned.ref} was altered after it was pinned: publish the model again")
        return data

    def _signer(self, pinned: PinnedModel, manifest: bytes) -> str | None:
        return self._verify(pinned, manifest, self._verify_keys) if self._verify_keys else None

    def _verify(self, pinned: PinnedModel, manifest: bytes, trusted: Sequence[str]) -> str:
        lines: bytes | None
        try:
            lines = self._read_document(keys.signature(pinned.name, pinned.version))
        except ObjectNotFound:
            lines = None
        return signatures.verify(manifest, lines, trusted, pinned.ref)

    def _read_document(self, key: str) -> bytes:
        """Read a small object. If the store cannot be reached, read the copy in the local cache."""
        try:
            data = self._store.get(key).data
        except StoreUnavailable as error:
            cached = self._local_cache.document(key) if self._local_cache else None
            if cached is None:
                raise
            log.warning("models.served_from_copy", extra={"key": key, "error": str(error)})
            return cached
        if self._local_cache:
            self._local_cache.keep_document(key, data)
        return data

    def _published(self, folder: str) -> Iterator[tuple[str, str]]:
        try:
            found = [info.key for info in self._store.list(folder)]
        except StoreUnavailable as error:
            found = self._local_cache.documents(folder) if self._local_cache else []
            if not found:
                raise
            log.warning("models.listed_from_copies", extra={"folder": folder, "error": str(error)})
        for key in found:
            match key.removeprefix(keys.MODELS).split("/"):
                case [name, version, "manifest.json"] if keys.is_name(name) and keys.is_version(version):
                    yield name, version

    def _not_found(self, name: str, what: str) -> ModelNotFound:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none published yet"
            return ModelNotFound(f"no model {name!r} in bucket {self._store.bucket!r} (models: {known})")
        names = ", ".join(alias.name for alias in self.aliases(name)) or "none"
        return ModelNotFound(f"model {name!r} has {what} (versions: {', '.join(versions[-3:])}; aliases: {names})")
