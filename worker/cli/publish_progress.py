"""Shows how far ``scoreline models publish`` is, and lets it clean up when it is stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from scoreline.storage.models.publisher import Progress as Report

_SHOWN_BYTES = 32 << 20
"""Smaller files are published before a bar could be read."""
_BAR_COLUMNS = 20


@contextlib.contextmanager
def publishing_bar(size: int) -> Iterator[Report | None]:
    """Draw a progress bar in a terminal while files of this many bytes are published. Yield the function to call."""
    if size < _SHOWN_BYTES or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(_BAR_COLUMNS), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=size)

        def report(step: str, done: int, total: int | None) -> None:
            if bar.tasks[0].description != step:
                bar.reset(task, description=step)
            bar.update(task, completed=done, total=None if step == "loading" else total)

        yield report


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """While the block runs, let SIGTERM and SIGHUP raise `SystemExit`, so that unfinished uploads are aborted.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, end)
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
