"""Reads ``queries.toml``, which has one table for each query. Only workers read it: no job, message or log has SQL."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoreline.storage import keys
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import InvalidRequest, InvalidSettings, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore

_KEYS = frozenset({"sql", "database", "split_by"})


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query that jobs may name."""

    sql: str
    database: str | None = None
    """Name of a database in DATABASES_FILE; by default, SOURCE_DATABASE_URL."""
    split_by: str | None = None
    """Column of integers by whose ranges the query is read."""


def find_query(settings: DatabaseSettings, main: ObjectStore, name: str) -> Query:
    """Return the query of a name.

    Raises
    ------
    InvalidRequest
        There is no such query, or the file has a fault. The message names the known queries.
    InvalidSettings
        QUERIES_FILE names a file that cannot be read.
    """
    where, text = _read(settings, main)
    known = parse(text, where)
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise InvalidRequest(f"{where} has no query {name!r}; it has {listed}: correct --query, or add [{name}] there")
    return known[name]


def parse(text: str, where: str) -> dict[str, Query]:
    r"""Return the queries of a text by name; raises `InvalidRequest`. The message quotes no SQL.

    >>> parse('[a]\nsql = "SELECT 1 AS x"', "queries.toml")
    {'a': Query(sql='SELECT 1 AS x', database=None, split_by=None)}
    """
    try:
        tables: Mapping[str, Any] = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{where} is not TOML: {error}") from None
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidRequest(f"{where}: {name!r} is outside of a [query]: put it below the name of a query")
        if unknown := sorted(table.keys() - _KEYS):
            raise InvalidRequest(
                f"{where}: [{name}] has the unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}"
            )
        sql, database, split_by = (table.get(key) for key in ("sql", "database", "split_by"))
        if not isinstance(sql, str) or not sql.strip():
            raise InvalidRequest(f'{where}: [{name}] has no text sql = "SELECT …"')
        if database is not None and not isinstance(database, str):
            raise InvalidRequest(f"{where}: database of [{name}] is not the name of a database")
        if split_by is not None and not isinstance(split_by, str):
            raise InvalidRequest(f"{where}: split_by of [{name}] is not the name of a column")
        found[name] = Query(sql=sql, database=database, split_by=split_by)
    return found


def _read(settings: DatabaseSettings, main: ObjectStore) -> tuple[str, str]:
    """Return where the queries are, and their text, which is empty if there are none."""
    file = settings.queries_file
    try:
        if settings.queries_required or file.is_file():
            return str(file), file.read_text("utf-8")
        where = main.uri(keys.QUERIES)
        return where, main.get(keys.QUERIES).data.decode()
    except ObjectNotFound:
        return where, ""
    except OSError as error:
        raise InvalidSettings(f"QUERIES_FILE={str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidRequest("the text of the queries is not UTF-8: save it as UTF-8") from None
