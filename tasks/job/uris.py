"""Parses the URIs of inputs and outputs, and tests whether an object belongs to an input."""

from __future__ import annotations

import fnmatch
import re

from scoreline.storage.errors import InvalidURI

_GLOB = re.compile(r"[*?\[]")
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<key>[^\0]*)")


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` into bucket and key; raises `InvalidURI`.

    >>> parse_uri("s3://data/in/*.parquet")
    ('data', 'in/*.parquet')
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidURI(f"{uri!r} is not of the form s3://bucket/key")
    if any(step in (".", "..") for step in match["key"].split("/")):
        raise InvalidURI(f"{uri!r} has '.' or '..' between its slashes: write the key out")
    return match["bucket"], match["key"]


def with_slash(uri: str) -> str:
    """Return the URI of an output with the slash at its end, which a user may leave out.

    >>> with_slash("s3://data/out"), with_slash("s3://data/out/")
    ('s3://data/out/', 's3://data/out/')
    """
    parse_uri(uri)
    return uri if uri.endswith("/") else f"{uri}/"


def literal_prefix(pattern: str) -> str:
    """Return the text before the first wildcard of a glob, or the whole pattern if it has no wildcard.

    >>> literal_prefix("in/2026-*/a.csv"), literal_prefix("in/a.csv")
    ('in/2026-', 'in/a.csv')
    """
    magic = _GLOB.search(pattern)
    return pattern[: magic.start()] if magic else pattern


def names(pattern: str, key: str) -> bool:
    """Return whether the object `key` matches an input's key, prefix or glob.

    >>> names("in/", "in/a.csv"), names("in/", "in/_tmp/a.csv"), names("in/*.csv", "in/x/a.csv"), names("in", "in/a")
    (True, False, True, False)
    """
    if not pattern or pattern.endswith("/"):
        return key.startswith(pattern) and _visible(key.removeprefix(pattern))
    if _GLOB.search(pattern):
        return key == pattern or (fnmatch.fnmatchcase(key, pattern) and _visible(key))
    return key == pattern


def _visible(key: str) -> bool:
    """Return whether dataset readers such as Spark read a key.

    Readers skip keys that end in ``/``, and all files and folders whose names begin with ``_`` or ``.``.
    """
    return not any(step.startswith(("_", ".")) for step in key.split("/")) and not key.endswith("/")
