"""Removes old versions of models, except those that something needs.

A version stays if a schedule or an alias names it, if an alias can be rolled back to it, or if a job scores with it,
can be resumed with it, or is kept with its results. Of each model, the newest versions stay in any case.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.audit import record
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    ModelCorrupt,
    ObjectNotFound,
    PreconditionFailed,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import aliases
from scoreline.storage.models.removed import RemovedVersion, read_removed
from scoreline.storage.objects.base import CREATE, ObjectInfo, ObjectStore, create_once
from scoreline.tasks.job.documents import read_model_refs
from scoreline.tasks.retention.policies import is_reserved_folder
from scoreline.tasks.schedules.in_force import read_in_force

_THREADS = 16


@dataclass(kw_only=True)
class Version:
    """A model version in a listing."""

    name: str
    version: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def ref(self) -> str:
        """The ``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Number of bytes of its objects."""
        return sum(info.size for info in self.objects)

    def has(self, key: str) -> bool:
        """Return whether it has an object with this key."""
        return any(info.key == key for info in self.objects)

    @property
    def published(self) -> bool:
        """Whether the version exists."""
        return self.has(keys.manifest(self.name, self.version))

    @property
    def begun(self) -> bool:
        """Whether its removal was interrupted."""
        tombstone = keys.removed_version(self.name, self.version)
        return self.has(tombstone) and len(self.objects) > 1


@dataclass(kw_only=True)
class VersionReport:
    """The versions that were removed, or would be, and those that stay although they are old."""

    removed: list[Version] = field(default_factory=list)
    kept: list[tuple[Version, str]] = field(default_factory=list)
    """The versions that stay, and why."""
    newest: int = 0
    """Number of versions that stay because they are among the newest."""


def collect_versions(main: ObjectStore, keep: int, *, dry_run: bool = False) -> VersionReport:
    """Remove all versions of all models except the newest `keep` of each model, and except those that are needed.

    This takes a request for every 1,000 objects in ``models/`` and ``jobs/``, and a request for each alias and each
    job.
    """
    report, old = VersionReport(), list[Version]()
    for versions in _listed(main).values():
        published = sorted((item for item in versions if item.published), key=lambda item: item.version)
        old += published[:-keep]
        old += [item for item in versions if item.begun and not item.published]
        report.newest += len(published[-keep:])
    needed = _needed(main, {item.name for item in old}) if old else {}
    for item in old:
        why = needed.get(item.ref) or needed.get(f"{item.name}@", "") if item.published else ""
        if not why and not dry_run:
            why = _remove(main, item, keep)
        if why:
            report.kept.append((item, why))
        else:
            report.removed.append(item)
    return report


def _listed(main: ObjectStore) -> Mapping[str, list[Version]]:
    """Return the objects of all versions, by model."""
    found: dict[str, dict[str, Version]] = defaultdict(dict)
    for info in main.list(keys.MODELS):
        match info.key.removeprefix(keys.MODELS).split("/"):
            case [name, version, _] if keys.is_name(name) and keys.is_version(version):
                found[name].setdefault(version, Version(name=name, version=version)).objects.append(info)
    return {name: list(versions.values()) for name, versions in found.items()}


def _needed(main: ObjectStore, names: set[str]) -> Mapping[str, str]:
    """Return why versions are needed, by ``name@version``. An entry ``name@`` is about all versions of a model."""
    needed: dict[str, str] = {}
    job_ids = set()
    for info in main.list(keys.JOBS):
        match info.key.removeprefix(keys.JOBS).split("/"):
            case [job_id, "job.json"] if not is_reserved_folder(job_id):
                job_ids.add(job_id)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="retention") as pool:
        ordered = sorted(job_ids)
        for job_id, refs in zip(ordered, pool.map(lambda job_id: _models_of(main, job_id), ordered), strict=True):
            for ref in refs:
                needed.setdefault(ref, f"job {job_id} scored with it, and is kept")
    for name in sorted(names):
        needed |= _named_by_aliases(main, name)
    found = read_in_force(main)
    for schedule, table in (found.tables if found is not None else {}).items():
        needed[str(table.get("model"))] = f"schedule {schedule} scores with it"
        if "challenger" in table:
            needed.setdefault(str(table["challenger"]), f"schedule {schedule} compares with it")
    return needed


def _models_of(main: ObjectStore, job_id: str) -> tuple[str, ...]:
    """Return the versions that a job scores with, as ``name@version``; none if it cannot score."""
    try:
        return read_model_refs(main, job_id)
    except (DocumentCorrupt, JobNotFound):
        return ()


def _named_by_aliases(main: ObjectStore, name: str) -> dict[str, str]:
    needed = {}
    folder = keys.aliases_folder(name)
    for info in main.list(folder):
        if (alias := aliases.name_of(info.key.removeprefix(folder))) is None:
            continue
        try:
            found = aliases.read(main, name, alias)
        except ModelCorrupt as error:
            return {f"{name}@": str(error)}
        for version in found.reachable if found is not None else ():
            now = found is not None and found.version == version
            needed[f"{name}@{version}"] = (
                f"alias {alias} names it" if now else f"alias {alias} can be rolled back to it"
            )
    return needed


def _remove(main: ObjectStore, item: Version, keep: int) -> str:
    """Remove a version. Return why it stays if it is needed since it was examined."""
    manifest, tombstone = keys.manifest(item.name, item.version), keys.removed_version(item.name, item.version)
    if item.published:
        try:
            data = main.get(manifest).data
        except ObjectNotFound:
            return "it is being removed by another process"
        why = f"{keep:,} newer versions are kept, and nothing needs it"
        left = RemovedVersion(
            model=item.ref,
            why=why,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            manifest_sha256=sha256_hex(data),
            size=item.size,
            files={info.key.rpartition("/")[2]: info.size for info in item.objects},
            manifest=data.decode(errors="replace"),
        )
        record(main, action="model.remove", target=item.ref, details={"why": why, "sha256": left.manifest_sha256})
        with contextlib.suppress(PreconditionFailed):  # an earlier removal died before it deleted the manifest
            main.put(tombstone, left.to_json(), mode=CREATE)
        main.delete(manifest)  # the version no longer exists from here on
    if reason := _needed_now(main, item):
        _withdraw(main, item)
        return reason
    main.delete_many([info.key for info in item.objects if info.key not in (manifest, tombstone)])
    return ""


def _withdraw(main: ObjectStore, item: Version) -> None:
    """Restore the manifest of a version whose removal has begun, perhaps by another process."""
    left = read_removed(main, item.name, item.version)
    if left is not None and sha256_hex(data := left.manifest.encode()) == left.manifest_sha256:
        create_once(main, keys.manifest(item.name, item.version), data)
        main.delete(keys.removed_version(item.name, item.version))


def _needed_now(main: ObjectStore, item: Version) -> str:
    """Return why a version has come to be needed since it was examined; empty if nothing needs it.

    If an alias is moved meanwhile, either this check notices the alias, or the process that moves it notices that the
    version is gone. A job that is submitted meanwhile is noticed by its marker.
    """
    named = _named_by_aliases(main, item.name)
    if why := named.get(item.ref) or named.get(f"{item.name}@"):
        return why
    for info in main.list(keys.JOBS_ACTIVE):
        job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
        if keys.is_name(job_id) and item.ref in _models_of(main, job_id):
            return f"job {job_id} scores with it"
    return ""
