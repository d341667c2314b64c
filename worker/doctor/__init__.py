"""Checks a deployment for common faults in production, and reports how to repair each fault.

A check is a function in the module of its subject, and has one line in the module `checks`. A fault that certainly
breaks the deployment is an error. A fault that may be intended, or that depends on other processes, is a warning.
Checks may import all packages of Scoreline except `scoreline.worker.cli`. Every check must also work if the packages of
ml-requirements.txt are not installed.
"""

from scoreline.worker.doctor.check import Finding, Severity
from scoreline.worker.doctor.checks import CHECKS
from scoreline.worker.doctor.run import SKIPPED, examine

NAMES = tuple(check.name for check in CHECKS)

__all__ = ["NAMES", "SKIPPED", "Finding", "Severity", "examine"]
