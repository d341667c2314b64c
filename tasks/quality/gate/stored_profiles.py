"""Reads profiles that are stored: those of jobs, and the baseline of a model version."""

from __future__ import annotations

from itertools import islice

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
        return Profile.from_dict(decode_object(store.get(key).data), store.uri(key))


def read_baseline(store: ObjectStore, manifest: Manifest) -> Profile | None:
    """Return the baseline of a model version; None if it has none.

    Raises
    ------
    ModelCorrupt, DocumentCorrupt
        The baseline is missing or damaged.
    """
    data = ModelRegistry(store).attachment(manifest, BASELINE)
    return None if data is None else Baseline.decode(data, f"the baseline of {manifest.ref}").profile


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
