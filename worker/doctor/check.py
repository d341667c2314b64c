"""Defines a check and its findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from scoreline.worker.doctor.context import Context

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A result of a check."""

    check: str = ""
    """The name of the check, which the function `examine` sets."""
    severity: Severity
    message: str
    remedy: str = ""
    """What to do about the fault; empty if the severity is ``ok``."""


@dataclass(frozen=True)
class Check:
    """A check of one subject of the doctor, for example Redis.

    Parameters
    ----------
    name : str
        The name of the check, as given to ``--only``.
    find : callable
        Yields a finding for each fault, or one ``ok`` finding if there is no fault.
    needs : tuple of str
        Checks that must succeed first. A check that needs a failed check is skipped, because it would only repeat the
        error.
    """

    name: str
    find: Callable[[Context], Iterable[Finding]]
    needs: tuple[str, ...] = ("settings",)


def ok(message: str) -> Finding:
    """Return a finding for a check without faults."""
    return Finding(severity="ok", message=message)


def warning(message: str, remedy: str) -> Finding:
    """Return a finding for a fault that may cause a failure."""
    return Finding(severity="warning", message=message, remedy=remedy)


def error(message: str, remedy: str) -> Finding:
    """Return a finding for a fault that breaks the deployment."""
    return Finding(severity="error", message=message, remedy=remedy)
