"""The files of a version that does not exist yet: each is uploaded, then verified while the next one is uploaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from scoreline.storage import keys
from scoreline.storage.errors import PreconditionFailed, ScorelineError
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.models.stream import check_stored
from scoreline.storage.objects.base import CREATE, ObjectStore
from scoreline.storage.objects.writer import ObjectWriter

_REPORT_S = 0.2


class NewFiles:
    """Uploads the files of a new version one after another, and deletes them unless the version is kept.

    One file is completed and verified in a second thread, while the next one is uploaded or the trial is under way. The
    number of threads and the memory therefore do not depend on the number of files. A file is read back only if the
    ETag does not prove that the store received its bytes as they were sent.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains the models.
    name, version : str
        The new version. Its name is not in use.
    """

    def __init__(self, store: ObjectStore, name: str, version: str) -> None:
        self._store, self._name, self._version = store, name, version
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish-verify")
        self._writers: list[ObjectWriter] = []
        self._verifying: Future[None] | None = None
        self._stopped = threading.Event()
        self._own: list[str] = []
        self._kept = False
        self._verified_bytes = 0

    def open(self, file: str, size: int | None) -> ObjectWriter:
        """Return a writer for the next file, of this size if it is known."""
        key = keys.artifact(self._name, self._version, file)
        writer = ObjectWriter(self._store, key, mode=CREATE, size=size, confirm=True)
        self._writers.append(writer)
        return writer

    def finish(self, artifact: Artifact) -> None:
        """Complete the upload of the file that was opened last, and compare it, in the second thread.

        Raises
        ------
        ModelCorrupt
            The previous file is not stored as it was sent.
        """
        self._wait()
        self._verifying = self._pool.submit(self._complete, self._writers[-1], artifact)

    def verify(self, report: Callable[[int], None]) -> None:
        """Wait until all files are compared (errors as in `finish`).

        Parameters
        ----------
        report : callable
            Receives the number of bytes that have been compared since the last call.
        """
        reported = 0
        while reported < self._verified_bytes or (self._verifying is not None and not self._verifying.done()):
            done = self._verified_bytes
            report(done - reported)
            reported = done
            if self._verifying is not None:
                wait([self._verifying], _REPORT_S)
        self._wait()
        report(self._verified_bytes - reported)

    def add(self, key: str) -> None:
        """Note another object that belongs to the version, and is deleted with its files."""
        self._own.append(key)

    def keep(self) -> None:
        """Do not delete the files, because the version exists now, or may exist."""
        self._kept = True

    def _wait(self) -> None:
        if self._verifying is not None:
            self._verifying.result()
            self._writers = self._writers[-1:]

    def _complete(self, writer: ObjectWriter, artifact: Artifact) -> None:
        key = keys.artifact(self._name, self._version, artifact.file)
        self._own.append(key)  # even if `complete` then fails, because the file may appear all the same
        try:
            writer.complete()
        except PreconditionFailed:  # perhaps the response to the first attempt was lost; then the bytes are the same
            self._own.remove(key)
        if writer.confirmed:
            self._verified_bytes += artifact.size
            return
        check_stored(self._store, key, artifact, self._count)
        if key not in self._own:
            self._own.append(key)

    def _count(self, chunk: bytes) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self._verified_bytes += len(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._verifying is not None:
            wait([self._verifying])  # otherwise, a file whose upload is being completed could appear after its deletion
        self._pool.shutdown()
        for writer in self._writers:
            writer.__exit__(kind, error, trace)
        for key in () if self._kept else self._own:
            with contextlib.suppress(ScorelineError):  # report only the first error
                self._store.delete(key)


class _Stopped(Exception):
    """Raised in the second thread if publishing has ended."""
