"""Embedded services that keep their bucket and their logs in a folder."""

from __future__ import annotations

import fcntl
import tarfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from scoreline.storage.errors import ScorelineError
from scoreline.storage.objects.buckets import Buckets
from scoreline.worker.dev.archive import restore, save
from scoreline.worker.dev.stack import Stack, StackError

FOLDER = Path(".scoreline/dev")


class KeptStack(Stack):
    """A stack of embedded services that restores the objects of the last stack, and keeps all logs.

    The objects are stored after the workers and the command have ended. Redis starts empty, and jobs under way continue
    from the bucket. If the stack is killed, the changes to its objects are lost.

    Parameters
    ----------
    folder : Path
        The directory that contains the stored objects, and a directory of logs for each run.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__(folder, prefix="logs-")
        self.archive = folder / "bucket.tar"
        self._lock: IO[str] | None = None
        self._restored = False

    def __enter__(self) -> Self:
        self._parent.mkdir(parents=True, exist_ok=True)
        self._lock = (self._parent / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StackError(f"another `scoreline dev --keep` uses {self._parent}: end it first") from None
        super().__enter__()
        try:
            restore(Buckets.from_env(self.environ).main, self.archive)
        except (tarfile.TarError, KeyError, ValueError) as error:
            self.__exit__(None, None, None)
            raise StackError(f"{self.archive} cannot be read: {error}. Remove it to begin with no objects") from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._restored = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_clients()
            if self._restored:
                save(Buckets.from_env(self.environ).main, self.archive)
        except ScorelineError as failed:
            raise StackError(f"the bucket could not be stored in {self.archive}: {failed}") from failed
        finally:
            super().__exit__(kind, error, trace)
            if self._lock is not None:
                self._lock.close()

    def _remove_folder(self) -> None:
        """Keep the logs."""
