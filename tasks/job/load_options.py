"""The options of loading results into a table of a database, and their checks. A worker knows which are allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from scoreline.storage.errors import InvalidRequest

Mode = Literal["upsert", "append", "replace"]
LOAD_OPTIONS = ("key", "into_columns", "mode", "create", "database")
"""Options of a job that say how its results are loaded, besides ``into``."""
_NAME = re.compile(r'[^".\x00-\x1f]{1,63}')
MODES: Mapping[str, str] = {
    "upsert": "change rows that are there, and insert the others",
    "append": "insert all rows",
    "replace": "replace the whole table",
}
"""What each mode does."""


def check_load(into: Any, key: Any, columns: Any, mode: Any) -> None:
    """Raise `InvalidRequest` if the options of a load are malformed. Only a worker knows which tables are allowed."""
    parts = into.split(".") if isinstance(into, str) else []
    if len(parts) not in (1, 2) or not all(_NAME.fullmatch(part) and len(part.encode()) <= 63 for part in parts):
        raise InvalidRequest(f"into {into!r} is not a table such as scores or public.scores")
    if parts[-1].startswith("scoreline_") or parts[0].startswith("pg_") or parts[0] == "information_schema":
        raise InvalidRequest(f"into {into!r} is reserved: choose another table")
    if mode not in MODES:
        raise InvalidRequest(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
    for option, given in (("key", key), ("into_columns", columns)):
        names = [part for name in given for part in str(name).split("=", 1)]
        if not all(isinstance(name, str) for name in given) or not all(names):
            raise InvalidRequest(f"{option} {list(given)!r} is not a list of names")
        targets = [name.partition("=")[0] for name in given]
        if len(set(targets)) < len(targets):
            raise InvalidRequest(f"{option} names a column of the table twice: {', '.join(targets)}")
    if mode != "append" and not key:
        raise InvalidRequest(f"mode {mode} needs the columns that identify a row: name them with --key")
