"""Runs the checks in parallel. A check that fails or hangs is reported as an error, and does not stop other checks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from threading import Event, Thread

from scoreline.storage.errors import ScorelineError, describe
from scoreline.worker import logs
from scoreline.worker.doctor.check import Check, Finding, error, warning
from scoreline.worker.doctor.checks import CHECKS
from scoreline.worker.doctor.context import Context

DEADLINE_S = 25.0
"""Maximum seconds for all checks together. A release command or health check must end, even if a service hangs."""
_CLEANUP_S = 10.0
SKIPPED = "skipped"
"""The message of a check that was skipped because a needed check has failed."""


def examine(
    environ: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    *,
    now: Callable[[], float] = time.time,
    deadline_s: float = DEADLINE_S,
) -> list[Finding]:
    """Run checks and return their findings in the order of `CHECKS`, at least one for each check.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The environment to examine; by default, the environment of this process.
    only : collection of str, optional
        The names of the checks to run; by default, all checks.
    now : callable
        Returns the time of this machine's clock in seconds since 1970.
    deadline_s : float
        Seconds after which a running check is reported as hanging. The thread of this check ends when the process ends.
    """
    context = Context(os.environ if environ is None else environ, now=now)
    runs: dict[str, _Run] = {}
    for check in CHECKS:
        if only is None or check.name in only:
            runs[check.name] = _Run(check, context, [runs[name] for name in check.needs if name in runs])
    deadline = time.monotonic() + deadline_s
    try:
        for run in runs.values():
            run.start()
        for run in runs.values():
            run.done.wait(max(0, deadline - time.monotonic()))
    except BaseException:  # the process is stopping: the bucket's probe must remove its objects
        context.leaving.set()
        deadline = time.monotonic() + _CLEANUP_S
        for run in runs.values():
            run.done.wait(max(0, deadline - time.monotonic()))
        raise
    hidden = logs.secrets_of(context.environ)
    found = [finding for run in runs.values() for finding in run.result(deadline_s)]
    return [
        replace(item, message=logs.redact(item.message, hidden), remedy=logs.redact(item.remedy, hidden))
        for item in found
    ]


class _Run(Thread):
    """The thread that runs one check."""

    def __init__(self, check: Check, context: Context, needed: Iterable[_Run]) -> None:
        super().__init__(name=f"doctor-{check.name}", daemon=True)
        self.done = Event()
        self._check = check
        self._setup = context
        self._needed = tuple(needed)
        self._found: list[Finding] = []

    def run(self) -> None:
        """Wait for all needed checks, and then run this check."""
        try:
            for other in self._needed:
                other.done.wait()
            if self._blocker() is None:
                for finding in self._check.find(self._setup):
                    self._found.append(finding)
        except Exception as fault:  # noqa: BLE001  # a check that raises must not end the others
            bug = "see whether another finding explains it; if none does, please report it as a bug of Scoreline"
            remedy = "fix this first" if isinstance(fault, ScorelineError) else bug
            self._found.append(error(describe(fault), remedy))
        finally:
            self.done.set()

    def result(self, deadline_s: float) -> list[Finding]:
        """Return the findings of the check, plus an error if the check hangs.

        If the check was skipped, return only a warning.
        """
        found = list(self._found)
        if (blocker := self._blocker()) is not None:
            found = [warning(SKIPPED, f"fix the check `{blocker}` first")]
        elif not self.done.is_set():
            found.append(
                error(f"no result within {deadline_s:g} s", "find out what hangs: the network, a proxy or the server")
            )
        return [replace(finding, check=self._check.name) for finding in found]

    def _blocker(self) -> str | None:
        """Return the name of a needed check that has failed or not ended; None if all needed checks have succeeded."""
        for other in self._needed:
            if not other.done.is_set() or any(finding.severity == "error" for finding in other._found):
                return other._check.name
        return None
