"""What was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import psutil


def described() -> str:
    """Return one line: cores, memory, Python, and the libraries that matter."""
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / (1 << 30)
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("scikit-learn", "numpy", "pyarrow"))
    return f"{cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, {libraries}"
