"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from scoreline.worker.doctor.setup import Setup

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check saw."""

    check: str = ""
    """Its name, which whoever runs the check fills in."""
    severity: Severity
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One subject.

    Parameters
    ----------
    name : str
        As ``--only`` takes it.
    look : callable
        Yields what it finds: everything that is wrong, else that all is right.
    needs : tuple of str
        Checks without whose success this one could only repeat what they say.
    """

    name: str
    look: Callable[[Setup], Iterable[Finding]]
    needs: tuple[str, ...] = ("settings",)


def ok(message: str) -> Finding:
    """Return a finding that nothing has to be done."""
    return Finding(severity="ok", message=message)


def warning(message: str, remedy: str) -> Finding:
    """Return a finding of what may go wrong, or needs somebody to do something."""
    return Finding(severity="warning", message=message, remedy=remedy)


def error(message: str, remedy: str) -> Finding:
    """Return a finding of what cannot work."""
    return Finding(severity="error", message=message, remedy=remedy)
