"""Which release this is."""

from __future__ import annotations

import importlib.metadata


def version() -> str | None:
    """Return the version that is installed; None where the source is run as it lies there."""
    try:
        return importlib.metadata.version("scoreline")
    except importlib.metadata.PackageNotFoundError:
        return None
