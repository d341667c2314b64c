"""Describes the machine and the versions with which the benchmarks were run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

import psutil

from scoreline.worker.dev.stack import ROOT

LIBRARIES = ("scikit-learn", "numpy", "pandas", "pyarrow", "celery")


def described() -> str:
    """Return one line with cores, memory, system, libraries, peers, commit, date, and the load of the machine."""
    return f"{hardware()}; commit {commit()}, {time.strftime('%Y-%m-%d')}, load average before {load()}"


def load() -> str:
    """Return the load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def hardware() -> str:
    """Return what stays the same between two runs: cores, memory, system, and the versions of libraries and peers."""
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / (1 << 30)
    ours = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return (
        f"{cores} cores ({_processor()}), {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {', '.join([*ours, *_peers(), *_java()])}"
    )


def commit() -> str:
    """Return the abbreviated hash of the measured commit."""
    return _said(["git", "rev-parse", "--short", "HEAD"])


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _peers() -> list[str]:
    """Return the names and versions of the peers, as `benchmarks/requirements.txt` pins them."""
    pinned = re.findall(
        r"^(dask|ray|pyspark)\S*==(\S+)", (ROOT / "benchmarks/requirements.txt").read_text(), re.MULTILINE
    )
    return [f"{name} {version}" for name, version in pinned]


def _java() -> list[str]:
    if shutil.which("java") is None:
        return []
    found = re.search(
        r'"(\S+)"', subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    )
    return [f"Java {found[1]}"] if found else []


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
