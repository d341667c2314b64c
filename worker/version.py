"""Which release this is."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("scoreline")
    """The version of the installed distribution; ``unknown`` in a checkout that is not installed."""
except importlib.metadata.PackageNotFoundError:
    __version__ = "unknown"
