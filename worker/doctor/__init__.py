"""Checks a deployment for common faults in production, and reports what each check found and how to repair it.

A check is a function in the module of its subject, and one line in `checks`. A fault that certainly breaks the
deployment is an error. A fault that may be intended, or that depends on other processes, is a warning. Checks may
import any other room except `scoreline.worker.cli`, but a check that needs a package of ml-requirements.txt must work
without it.
"""

from scoreline.worker.doctor.check import Finding, Severity
from scoreline.worker.doctor.checks import CHECKS
from scoreline.worker.doctor.run import SKIPPED, examine

NAMES = tuple(check.name for check in CHECKS)

__all__ = ["NAMES", "SKIPPED", "Finding", "Severity", "examine"]
