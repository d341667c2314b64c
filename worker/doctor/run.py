"""Runs checks side by side, whatever they do: one that raises or hangs is an error, and the others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from threading import Event, Thread

from scoreline.storage.errors import ScorelineError, describe
from scoreline.worker import logs
from scoreline.worker.doctor.base import Check, Finding, error, warning
from scoreline.worker.doctor.checks import CHECKS
from scoreline.worker.doctor.setup import Setup

DEADLINE_S = 25.0
"""Heroku's release command and a container's health check have to end, whatever hangs."""
_LEAVE_S = 10.0
NOT_LOOKED_AT = "not looked at"
"""What there is to say of a check that needs another."""


def examine(
    environ: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    *,
    now: Callable[[], float] = time.time,
    deadline_s: float = DEADLINE_S,
) -> list[Finding]:
    """Run checks, and return what they found in the order of `CHECKS`; each has at least one finding.

    Parameters
    ----------
    environ : mapping of str to str, optional
        Of this process by default.
    only : collection of str, optional
        Names of the checks to run; all by default.
    now : callable
        This machine's clock.
    deadline_s : float
        Seconds after which what has not ended counts as hanging; its thread ends with the process.
    """
    setup = Setup(os.environ if environ is None else environ, now=now)
    runs: dict[str, _Run] = {}
    for check in CHECKS:
        if only is None or check.name in only:
            runs[check.name] = _Run(check, setup, [runs[name] for name in check.needs if name in runs])
    deadline = time.monotonic() + deadline_s
    try:
        for run in runs.values():
            run.start()
        for run in runs.values():
            run.done.wait(max(0, deadline - time.monotonic()))
    except BaseException:  # told to stop: what was written for a probe is removed first
        setup.leaving.set()
        deadline = time.monotonic() + _LEAVE_S
        for run in runs.values():
            run.done.wait(max(0, deadline - time.monotonic()))
        raise
    hidden = logs.secrets_of(setup.environ)
    found = [finding for run in runs.values() for finding in run.result(deadline_s)]
    return [
        replace(item, message=logs.redact(item.message, hidden), remedy=logs.redact(item.remedy, hidden))
        for item in found
    ]


class _Run(Thread):
    """One check under way."""

    def __init__(self, check: Check, setup: Setup, needed: Iterable[_Run]) -> None:
        super().__init__(name=f"doctor-{check.name}", daemon=True)
        self.done = Event()
        self._check = check
        self._setup = setup
        self._needed = tuple(needed)
        self._found: list[Finding] = []

    def run(self) -> None:
        """Wait for what is needed, then look."""
        try:
            for other in self._needed:
                other.done.wait()
            if self._blocker() is None:
                for finding in self._check.look(self._setup):
                    self._found.append(finding)
        except Exception as fault:  # noqa: BLE001  # whatever a check does, it is a finding
            ours = "this is a fault of Scoreline's, unless something above explains it"
            remedy = "mend that first" if isinstance(fault, ScorelineError) else ours
            self._found.append(error(describe(fault), remedy))
        finally:
            self.done.set()

    def result(self, deadline_s: float) -> list[Finding]:
        """Return what was found, and whether it hangs."""
        found = list(self._found)
        if (blocker := self._blocker()) is not None:
            found = [warning(NOT_LOOKED_AT, f"mend {blocker} first")]
        elif not self.done.is_set():
            found.append(error(f"no answer within {deadline_s:g} s", "see what hangs: the network, a proxy, a server"))
        return [replace(finding, check=self._check.name) for finding in found]

    def _blocker(self) -> str | None:
        """Return the name of a check whose error leaves nothing to look at."""
        for other in self._needed:
            if not other.done.is_set() or any(finding.severity == "error" for finding in other._found):
                return other._check.name
        return None
