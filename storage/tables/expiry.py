"""Deletes what a process has written for other processes once none of them has used it for some time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import BinaryIO


class Expiry:
    """Empties a file after a time without use, in a thread.

    Parameters
    ----------
    file : BinaryIO
        The file, which only this process writes.
    left_s : callable
        Returns for how many seconds the contents are kept if they stay unused.
    name : str
        Name of the thread.
    """

    def __init__(self, file: BinaryIO, left_s: Callable[[], float], name: str) -> None:
        self._file = file
        self._left_s = left_s
        self._name = name
        self._emptied: SimpleQueue[None] | None = None

    def begin(self) -> None:
        """Start the thread. Call `empty` or `stop` before the file is written again."""
        emptied = self._emptied = SimpleQueue()
        threading.Thread(target=self._run, args=(emptied,), name=self._name, daemon=True).start()

    def stop(self) -> None:
        """End the thread. The contents stay."""
        emptied, self._emptied = self._emptied, None
        if emptied is not None:
            emptied.put(None)

    def empty(self) -> None:
        """Empty the file now, and end the thread."""
        self.stop()
        with contextlib.suppress(OSError, ValueError):  # a closed file raises ValueError
            os.ftruncate(self._file.fileno(), 0)

    def _run(self, emptied: SimpleQueue[None]) -> None:
        while (left_s := self._left_s()) > 0.0:
            with contextlib.suppress(Empty):
                emptied.get(timeout=left_s)
                return
        if self._emptied is emptied:
            self.empty()
