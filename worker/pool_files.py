"""The files and pipes that the processes of a pool share.

The main process opens them before it forks the pool. The system deletes the files when the last process ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from billiard.process import current_process

from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables.shared_rows import SharedRows
from scoreline.storage.tables.spool import Spool
from scoreline.storage.tables.survey_orders import SurveyOrders, open_pipes


@dataclass
class PoolFiles:
    """Files and pipes for each process of a pool. Without them, each process works by itself.

    The methods return what this process uses. They return None in a process that the files do not cover: the main
    process, and one that a growing pool started later.
    """

    objects: list[BinaryIO] = field(default_factory=list)
    """Two for each process, for small objects: one for jobs that it plans, and one for jobs with which it helps."""
    rows: list[BinaryIO] = field(default_factory=list)
    """One for each process, for rows of wide row groups."""
    orders: list[BinaryIO] = field(default_factory=list)
    pipes: list[tuple[int, int]] = field(default_factory=list)
    """A file and a pipe for each process, with which the processes help each other."""

    @classmethod
    def open(cls, processes: int) -> PoolFiles:
        """Open the files and pipes for a pool of so many processes."""
        return cls(
            objects=open_files(2 * processes),
            rows=open_files(processes),
            orders=open_files(processes),
            pipes=open_pipes(processes),
        )

    def spool(self, limit_bytes: int, *, helper: bool = False) -> Spool | None:
        """Return the spool for small objects.

        Parameters
        ----------
        limit_bytes : int
            Maximum size of the objects that this process writes.
        helper : bool
            Whether to return the spool for the objects that this process surveys for the planners of other processes.
        """
        count = len(self.objects) // 2
        own = _own(count)
        return None if own is None else Spool(self.objects, own + count * helper, limit_bytes=limit_bytes)

    def survey_orders(self) -> SurveyOrders | None:
        """Return the orders with which processes survey small objects together."""
        own = _own(min(len(self.orders), len(self.pipes)))
        return None if own is None else SurveyOrders(self.orders, self.pipes, own)

    def shared_rows(self) -> SharedRows | None:
        """Return the rows of wide row groups that processes share."""
        own = _own(len(self.rows))
        return None if own is None else SharedRows(self.rows, own)


def _own(processes: int) -> int | None:
    """Return the number of this process in its pool; None if there are no files for it."""
    own: int | None = getattr(current_process(), "index", None)
    return own if own is not None and own < processes else None
