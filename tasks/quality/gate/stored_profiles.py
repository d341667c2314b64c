"""Reads profiles that are stored: those of jobs, and the baseline of a model version."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.models.attachments import BASELINE
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import decode_object
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.quality.gate.latest import Latest, RunEntry
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.profile import Profile

_REMEMBERED = 4
"""Number of profiles that a process remembers. A job is compared twice, by its checks and in its report, and the jobs
of an output are compared with the same profile."""
_MAX_REMEMBERED_BYTES = 1 << 18
"""Size up to which a document is remembered. Decoded, it takes some ten times as much memory."""
_MAX_PACKED_BYTES = 4 << 20
"""Size up to which a packed profile is remembered instead of a larger document. Unpacking it takes a third of the time
of decoding the document, which is some six times as large."""
_PACKED = 2
"""Number of packed profiles that a process remembers: those that the last jobs were compared with."""
_remembered: OrderedDict[tuple[str, bytes], Profile] = OrderedDict()
_packed: OrderedDict[tuple[str, bytes], str] = OrderedDict()
"""Packed profiles by the name and the digest of their document."""
_in_use: WeakValueDictionary[tuple[str, bytes], Profile] = WeakValueDictionary()
"""Profiles of large documents that somewhere are still in use, by the name and the digest of their document. The report
of a job needs the same profiles as its checks, which a finalizer therefore keeps until then."""
_lock = Lock()
_FIRST_RUNS = 3
"""Number of the oldest accepted runs of which a profile is looked for."""


def read_profile(store: ObjectStore, folder: str) -> Profile:
    """Return the profile of a job.

    Parameters
    ----------
    folder : str
        The folder with the results of the job; ends in ``/``.

    Raises
    ------
    ObjectNotFound
        The job has no profile.
    DocumentCorrupt
        The profile is damaged.
    """
    key = keys.results_profile(folder)
    with decoding(store, key):
        data, uri = store.get(key).data, store.uri(key)
        return _decoded(uri, data, lambda: Profile.from_dict(decode_object(data, _instead(data)), uri))


def _instead(data: bytes) -> Callable[[dict[str, Any]], Any] | None:
    """Return what makes arrays of the histograms of a large document, while it is decoded (see `in_arrays`)."""
    if len(data) <= _MAX_REMEMBERED_BYTES:
        return None
    try:
        from scoreline.tasks.quality.profiles.number_counts import in_arrays
    except ModuleNotFoundError:  # a report can be made without the packages of a worker
        return None
    return in_arrays


def remember_profile(uri: str, data: bytes, profile: Profile) -> None:
    """Remember the profile of a document that was just written, so that `read_profile` need not decode it.

    That of a large document is remembered only as long as it is in use.
    """
    if len(data) > _MAX_REMEMBERED_BYTES:
        _in_use[uri, hashlib.sha256(data).digest()] = profile
        return
    _remember(_remembered, _REMEMBERED, (uri, data), profile)


def _decoded(uri: str, data: bytes, decode: Callable[[], Profile]) -> Profile:
    """Decode a profile, unless the same bytes of the same object are remembered."""
    if len(data) > _MAX_REMEMBERED_BYTES:
        return _decoded_large(uri, data, decode)
    if (known := _recalled(_remembered, (uri, data))) is not None:
        return known
    profile = decode()
    remember_profile(uri, data, profile)
    return profile


def _decoded_large(uri: str, data: bytes, decode: Callable[[], Profile]) -> Profile:
    """Decode the profile of a table with many columns, unless its bytes at the same place are in use or remembered.

    A process without NumPy remembers none.
    """
    name = uri, hashlib.sha256(data).digest()
    if (profile := _in_use.get(name)) is None:
        profile = _in_use[name] = _unpacked_or_decoded(name, decode)
    return profile


def _unpacked_or_decoded(name: tuple[str, bytes], decode: Callable[[], Profile]) -> Profile:
    try:
        from scoreline.tasks.quality.profiles.footers import pack, unpack
    except ModuleNotFoundError:  # a report can be made without the packages of a worker
        return decode()
    if (known := _recalled(_packed, name)) is not None:
        return unpack(known)
    profile = decode()
    text = pack(profile)
    if len(text) <= _MAX_PACKED_BYTES:
        _remember(_packed, _PACKED, name, text)
    return profile


def _recalled[V](remembered: OrderedDict[tuple[str, bytes], V], name: tuple[str, bytes]) -> V | None:
    with _lock:
        if (known := remembered.get(name)) is not None:
            remembered.move_to_end(name)
        return known


def _remember[V](remembered: OrderedDict[tuple[str, bytes], V], most: int, name: tuple[str, bytes], value: V) -> None:
    with _lock:
        remembered[name] = value
        if len(remembered) > most:
            remembered.popitem(last=False)


def read_baseline(store: ObjectStore, manifest: Manifest) -> Profile | None:
    """Return the baseline of a model version; None if it has none.

    Raises
    ------
    ModelCorrupt, DocumentCorrupt
        The baseline is missing or damaged.
    """
    data = ModelRegistry(store).attachment(manifest, BASELINE)
    if data is None:
        return None
    name = f"the baseline of {manifest.ref}"
    return _decoded(name, data, lambda: Baseline.decode(data, name).profile)


def first_accepted(pointer: Pointer, latest: Latest, but: str = "") -> tuple[RunEntry, Profile] | None:
    """Return the oldest accepted run of an output that has a profile; None if none of the oldest runs has one.

    Parameters
    ----------
    but : str, optional
        Id of a job that does not count.
    """
    accepted = (run for run in reversed(latest.runs) if run.decision == "accepted" and run.job_id != but)
    for run in islice(accepted, _FIRST_RUNS):
        try:
            return run, read_profile(pointer.store, keys.output_folder(pointer.prefix, run.job_id))
        except ObjectNotFound:
            continue
    return None
