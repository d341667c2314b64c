"""URIs of inputs and outputs, and which objects an input names."""

from __future__ import annotations

import fnmatch
import re

from scoreline.storage.errors import InvalidURI

GLOB = re.compile(r"[*?\[]")
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<key>[^\0]*)")


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``.

    >>> parse_uri("s3://data/in/*.parquet")
    ('data', 'in/*.parquet')
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidURI(f"{uri!r} is not of the form s3://bucket/key")
    if any(step in (".", "..") for step in match["key"].split("/")):
        raise InvalidURI(f"{uri!r} has '.' or '..' as a step")
    return match["bucket"], match["key"]


def names(pattern: str, key: str) -> bool:
    """Whether an input's key, prefix or glob names an object (see `scoreline.tasks.inputs.listing.find`).

    >>> names("in/", "in/a.csv"), names("in/", "in/_tmp/a.csv"), names("in/*.csv", "in/x/a.csv"), names("in", "in/a")
    (True, False, True, False)
    """
    if not pattern or pattern.endswith("/"):
        return key.startswith(pattern) and _visible(key.removeprefix(pattern))
    if GLOB.search(pattern):
        return key == pattern or (fnmatch.fnmatchcase(key, pattern) and _visible(key))
    return key == pattern


def _visible(key: str) -> bool:
    """Whether dataset readers look at a key: they leave out steps that begin so, and marks that stand for folders."""
    return not any(step.startswith(("_", ".")) for step in key.split("/")) and not key.endswith("/")
