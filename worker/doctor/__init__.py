"""What goes wrong in production, looked for before it does: each check says what it found and how to mend it.

An error certainly breaks what is deployed; what may be right all the same, or depends on other processes, is a warning.
A check is a function in the module of its subject, and a line in `checks`.
"""

from scoreline.worker.doctor.base import Finding, Severity
from scoreline.worker.doctor.checks import CHECKS
from scoreline.worker.doctor.run import NOT_LOOKED_AT, examine

NAMES = tuple(check.name for check in CHECKS)

__all__ = ["NAMES", "NOT_LOOKED_AT", "Finding", "Severity", "examine"]
