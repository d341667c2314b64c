"""Remembers the columns of the results of earlier small jobs, so that a like job need not be sampled to learn them."""

from __future__ import annotations

import threading
from collections import OrderedDict

from scoreline.storage.models.manifest import Manifest
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import Columns

_KEPT = 64

type _Key = tuple[object, ...]


class KnownColumns:
    """The columns of the plans of this process. It is thread-safe.

    A job is like an earlier one if both have the same model version, method, features, kept columns and row rules, and
    if the columns of their input have the same types. The model may still return another type for other values. The
    results of a job that is planned by these columns must therefore be compared with their schema before they are
    written (see `forget`). Then the plan is the same as without `KnownColumns`, as long as the sample would have
    contained all rows.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, Columns] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, job: Job, manifest: Manifest, drafted: Columns) -> Columns | None:
        """Return the columns of the plan of an earlier job; None if there was no like job.

        Parameters
        ----------
        drafted : Columns
            The columns of the plan as far as they are known without scoring a sample.
        """
        key = _key(job, manifest, drafted)
        if key is None:
            return None
        with self._lock:
            return self._known.get(key)

    def add(self, job: Job, manifest: Manifest, drafted: Columns, found: Columns) -> None:
        """Remember the columns that a sample has shown. The other parameters are those of `find`."""
        key = _key(job, manifest, drafted)
        if key is None:
            return
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def forget(self, columns: Columns) -> None:
        """Forget columns that a job did not have although an earlier like job had them."""
        with self._lock:
            self._known = OrderedDict((key, found) for key, found in self._known.items() if found != columns)


def _key(job: Job, manifest: Manifest, drafted: Columns) -> _Key | None:
    """Return what the columns of the results depend on; None if they also depend on the rows of the sample.

    The sample also shows whether a model that does not declare its form of input accepts an array.
    """
    declared = manifest.feature_names is not None or manifest.n_features is not None
    if not declared:
        return None
    model = (job.model.manifest_sha256, job.spec.method)
    return (*model, drafted.features, drafted.keep, drafted.reads, drafted.folders, drafted.rules)
