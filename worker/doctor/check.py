"""A check, and its findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from scoreline.worker.doctor.context import Context

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check."""

    check: str = ""
    """The name of the check, which `examine` fills in."""
    severity: Severity
    message: str
    remedy: str = ""
    """What to do about it; empty if the severity is ``ok``."""


@dataclass(frozen=True)
class Check:
    """One subject that the doctor examines.

    Parameters
    ----------
    name : str
        The name of the check, as given to ``--only``.
    find : callable
        Yields a finding for each fault, or one ``ok`` finding if there is none.
    needs : tuple of str
        Checks that must succeed first. If one of them fails, this check would only repeat its error.
    """

    name: str
    find: Callable[[Context], Iterable[Finding]]
    needs: tuple[str, ...] = ("settings",)


def ok(message: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(severity="ok", message=message)


def warning(message: str, remedy: str) -> Finding:
    """Return a finding that something may go wrong."""
    return Finding(severity="warning", message=message, remedy=remedy)


def error(message: str, remedy: str) -> Finding:
    """Return a finding that something cannot work."""
    return Finding(severity="error", message=message, remedy=remedy)
