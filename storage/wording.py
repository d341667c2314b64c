"""Words for messages."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that end a line, command a terminal or change the direction of the text, and halves of surrogate pairs."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "error"), plural(1_000, "warning")
    ('1 error', '1,000 warnings')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text from outside as it may be printed: control characters, except those in `keep`, are escaped.

    They are escaped as in JSON. Otherwise a name or a message could forge a line of a log, or rewrite what a terminal
    shows.

    >>> print(printable("done\n12:30:05 INFO job.ended"))
    done\u000a12:30:05 INFO job.ended
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def without_credentials(url: str) -> str:
    """Return a URL without user name, password and query, which may be secrets, for messages.

    >>> without_credentials("https://user:hush@example.org/x?key=hush"), without_credentials("user:hush@example.org")
    ('https://example.org/x?…', '(hidden)')
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(hidden)" if "@" in url else url
    address, query, _ = rest.partition("?")
    place, slash, path = address.partition("/")
    if "@" in path:  # the password contains a slash
        return "(hidden)"
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}{query and '?…'}"
