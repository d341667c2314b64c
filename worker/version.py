"""The version of this release."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("scoreline")
    """The version of the installed distribution, or ``unknown`` in a checkout that is not installed."""
except importlib.metadata.PackageNotFoundError:
    __version__ = "unknown"
