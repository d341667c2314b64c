"""Words for messages."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "error"), plural(1_000, "warning")
    ('1 error', '1,000 warnings')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
