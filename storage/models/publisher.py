"""Publish a new version of a model: try and upload the files in one pass, verify them, then write the manifest."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import audit, keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import attachments as attached
from scoreline.storage.models import pins, roles, signatures
from scoreline.storage.models.attachments import Additions, Measured
from scoreline.storage.models.digests import ChunkDigests, artifact_file
from scoreline.storage.models.manifest import Artifact, Manifest
from scoreline.storage.models.new_files import NewFiles
from scoreline.storage.models.trial_load import NewArtifact, Trial, TrialHere, TrialLoad, open_trial
from scoreline.storage.objects.base import ObjectStore, create_once
from scoreline.storage.objects.writer import ObjectWriter

type Progress = Callable[[str, int, int | None], None]
"""Receives what is being done with the files, the number of bytes done, and the number of all bytes if it is known."""

type Measure = Callable[[Manifest], Measured]
"""Receives the manifest of a version before it is written. All artifacts of the version are stored already."""

RANDOM_DIGITS = 2
"""How many digits at the end of the name of a version say nothing about its time."""


class Publisher:
    """Publishes versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains the models.
    signing_key : str
        Key that signs every version; if empty, versions are not signed.
    allow_version_skew : bool
        Whether models that were saved with another version of scikit-learn may be published. The manifest records the
        version.
    try_here : bool
        Whether the trial load runs in this process rather than in a fresh one. Only tests set this, to save seconds.
    """

    def __init__(
        self, store: ObjectStore, *, signing_key: str = "", allow_version_skew: bool = False, try_here: bool = False
    ) -> None:
        self._store = store
        self._signing_key = signing_key
        self._allow_version_skew = allow_version_skew
        self._try_here = try_here

    def publish(
        self,
        name: str,
        files: Sequence[NewArtifact],
        metadata: Mapping[str, Any],
        progress: Progress | None = None,
        *,
        attachments: Mapping[str, bytes] | None = None,
        measure: Measure | None = None,
        on_loaded: Callable[[TrialLoad], None] | None = None,
    ) -> Manifest:
        """Store a new version and return its manifest.

        The bytes of the files are read once. They are hashed and uploaded while a fresh process unpickles them. Each
        uploaded file is verified, by its ETag or by reading it back, while the next one is uploaded, or while the
        process finishes loading. If anything fails, the files are deleted. The manifest is written last, so that the
        version exists only once it is complete.

        Parameters
        ----------
        attachments : mapping of str to bytes, optional
            Small files to store beside the manifest, by name.
        measure : callable, optional
            Returns further attachments and metrics of the version.
        on_loaded : callable, optional
            Receives the result of the trial load, if the bundle can score rows.

        Raises
        ------
        InvalidRequest
            A name is not valid, the bundle cannot score rows, a file does not have the SHA-256 that it must have or
            was changed while it was read, the metadata cannot be encoded as JSON, or an attachment is too large.
        ModelUnloadable
            A fresh process cannot load the bundle.
        """
        keys.check_name("model", name)
        _check_files(files)
        added = dict(attachments or {})
        attached.check_new(added, metadata)
        try:
            json.dumps(dict(metadata), sort_keys=True)
        except TypeError as error:
            raise InvalidRequest(f"the metadata of {name!r} cannot be encoded as JSON: {error}") from None
        steps = _Steps(files, progress)
        expected = [_find_expected(item, steps) for item in files]
        begin = TrialHere if self._try_here else open_trial
        version = new_version()
        with (
            contextlib.closing(begin(name, files, allow_version_skew=self._allow_version_skew)) as trial,
            NewFiles(self._store, name, version) as uploads,
        ):
            artifacts = []
            steps.begin("uploading")
            for item, wanted in zip(files, expected, strict=True):
                writer = uploads.open(artifact_file(item.name), item.content.size)
                artifacts.append(_pass_on(item, wanted, trial, writer, steps))
                uploads.finish(artifacts[-1])
            steps.begin("loading")
            found = trial.result()
            if on_loaded is not None:
                on_loaded(found)
            steps.begin("verifying")
            uploads.verify(steps.add)
            manifest = Manifest(
                name=name,
                version=version,
                created=created(version),
                artifacts=tuple(artifacts),
                feature_names=found.feature_names,
                n_features=found.n_features,
                outputs=found.outputs,
                libraries=found.libraries,
                memory_bytes=found.memory_bytes,
                metadata=dict(metadata),
            )
            measured = Measured()
            if measure is not None:
                steps.begin("measuring")
                measured = measure(manifest)
                added |= measured.attachments
                attached.check_new(added, metadata)
            entry = Additions.of(added, measured.metrics).to_metadata()
            manifest = replace(manifest, metadata={**metadata, **entry})
            self._commit(manifest, added, uploads)
        return manifest

    def _commit(self, manifest: Manifest, attachments: Mapping[str, bytes], uploads: NewFiles) -> None:
        """Write what belongs to the files."""
        name, version = manifest.name, manifest.version
        for file, content in attachments.items():
            key = keys.artifact(name, version, file)
            uploads.add(key)
            attached.write(self._store, key, content)
        data = manifest.to_json()
        small = {keys.pins_entry(name, version): pins.data_txt(manifest)}
        if self._signing_key:
            small[keys.signature(name, version)] = signatures.sign(data, self._signing_key).encode()
        for key, content in small.items():
            uploads.add(key)  # even if the store fails now, because the object may be there all the same
            create_once(self._store, key, content)
        audit.record(self._store, action="model.publish", target=manifest.ref, details={"sha256": sha256_hex(data)})
        uploads.keep()  # the manifest may be stored although the store reports a failure
        create_once(self._store, keys.manifest(name, version), data)


class _Steps:
    """Reports how far each step of publishing is."""

    def __init__(self, files: Sequence[NewArtifact], progress: Progress | None) -> None:
        sizes = [item.content.size for item in files]
        self._total = None if None in sizes else sum(size or 0 for size in sizes)
        self._progress = progress
        self._step, self._done = "", 0

    def begin(self, step: str) -> None:
        """Begin a step, in which each byte is processed once."""
        self._step, self._done = step, 0
        self.add(0)

    def add(self, count: int) -> None:
        """Report that another number of bytes is done."""
        self._done += count
        if self._progress is not None:
            self._progress(self._step, self._done, self._total)


def new_version() -> str:
    """Return the name of a version that begins now.

    Three of the last five digits are the fraction of the second, so that the later of two versions of the same second
    sorts last, and is the latest. The other two digits are random. The name must be known before the first byte is
    uploaded, so it cannot depend on the content.
    """
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond * 4096 // 1_000_000:03x}{secrets.token_hex(RANDOM_DIGITS // 2)}"


def created(version: str) -> str:
    """Return the time in the name of a version, in ISO 8601.

    >>> created("20261129T054500Z-0a1b2")
    '2026-11-29T05:45:00+00:00'
    """
    return datetime.strptime(version.partition("-")[0], "%Y%m%dT%H%M%S%z").isoformat(timespec="seconds")


def _find_expected(item: NewArtifact, steps: _Steps) -> Artifact | None:
    """If a file must have a certain digest, hash it, and raise an error if its digest differs.

    Only then may the file be unpickled, so such a file is read once more than others.
    """
    recorded = item.content.recorded_sha256
    if item.sha256 is None and recorded is None:
        return None
    steps.begin("hashing")
    with ChunkDigests(lambda number, digest, chunk: steps.add(len(chunk))) as digests:
        item.content.copy_to(digests.write)
        found = digests.artifact(item.role, item.name)
    if recorded not in (None, found.sha256):
        raise ModelCorrupt(f"{item.source} differs from its recorded digest: save it again")
    if item.sha256 not in (None, found.sha256):
        raise InvalidRequest(f"{item.source} does not have the SHA-256 that is given for {item.name!r}")
    return found


def _pass_on(
    item: NewArtifact, expected: Artifact | None, trial: Trial, writer: ObjectWriter, steps: _Steps
) -> Artifact:
    """Hash a file, send it to the trial, and upload it, all in one pass; return its description."""

    def receive(number: int, digest: str, chunk: bytes) -> None:
        if expected is not None and expected.chunks[number : number + 1] != (digest,):
            raise InvalidRequest(f"{item.source} was changed while it was published: publish it again")
        writer.write(chunk)  # first, so that parts are on their way while the fresh process is still starting
        trial.send(chunk)
        steps.add(len(chunk))

    with ChunkDigests(receive) as digests:
        item.content.copy_to(digests.write)
        artifact = digests.artifact(item.role, item.name)
    if not artifact.size:
        raise InvalidRequest(f"the file of {item.role} {item.name!r} is empty")
    if expected not in (None, artifact):
        raise InvalidRequest(f"{item.source} was changed while it was published: publish it again")
    trial.end_file()
    return artifact


def _check_files(files: Sequence[NewArtifact]) -> None:
    """Raise `InvalidRequest` unless the files form a bundle and have valid, distinct names."""
    roles.check_names([(item.role, item.name) for item in files])
    names = set()
    for item in files:
        keys.check_name(item.role.replace("_", " "), item.name)
        if item.name in names:
            raise InvalidRequest(f"two files of the bundle are named {item.name!r}: give each its own name")
        if item.content.size == 0:
            raise InvalidRequest(f"the file of {item.role} {item.name!r} is empty")
        names.add(item.name)
    if not any(item.role == "model" for item in files):
        raise InvalidRequest("a bundle needs at least one model")
    if sum(item.role == "label_encoder" for item in files) > 1:
        raise InvalidRequest("a bundle can have only one label encoder")
