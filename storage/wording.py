"""Words for messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that end a line, control a terminal or change the direction of the text, and single halves of surrogate
pairs."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "error"), plural(1_000, "warning"), plural(2, "process")
    ('1 error', '1,000 warnings', '2 processes')
    """
    ending = "es" if noun.endswith("ss") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def listed(texts: Sequence[str], shown: int = 5) -> str:
    """Return some of many texts.

    >>> listed(["no", "yes"]), listed(list("abcdefg"))
    ("'no', 'yes'", "'a', 'b', 'c', 'd', 'e' and 2 more")
    """
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return ", ".join(map(repr, texts[:shown])) + more


def cut(text: str, chars: int) -> str:
    """Cut a text to a number of characters, the last of which is then an ellipsis.

    >>> cut("20261101T120000Z", 9), cut("short", 9)
    ('20261101…', 'short')
    """
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def printable(text: str, *, keep: str = "") -> str:
    r"""Return an untrusted text with all control characters escaped, except those in `keep`.

    Characters are escaped as in JSON. Unescaped control characters could forge a line of a log, or change what a
    terminal shows.

    >>> print(printable("done\n12:30:05 INFO job.ended"))
    done\u000a12:30:05 INFO job.ended
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def without_credentials(url: str) -> str:
    """Return a URL for messages, without user name, password and query, because these may be secrets.

    >>> without_credentials("https://user:hush@example.org/x?key=hush"), without_credentials("user:hush@example.org")
    ('https://example.org/x?…', '(hidden)')
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(hidden)" if "@" in url else url
    address, query, _ = rest.partition("?")
    place, slash, path = address.partition("/")
    if "@" in path:  # an unescaped slash in the password has cut the address in two
        return "(hidden)"
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}{query and '?…'}"
