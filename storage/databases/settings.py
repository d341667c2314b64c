"""The databases that workers may use, read once from the environment. Their addresses never leave the worker."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from scoreline.storage.errors import InvalidSettings, TableNotAllowed
from scoreline.storage.settings import Environment

DEFAULT_LOAD_CONNECTIONS = 4
DEFAULT_SOURCE_TIMEOUT_S = 480
MOST_SOURCE_TIMEOUT_S = 500
"""Maximum number of seconds for a query, because a worker stops a step after 540 seconds."""
MOST_SOURCE_CONNECTIONS = 8
_SCHEMES = ("postgres", "postgresql")


@dataclass(frozen=True, kw_only=True)
class Address:
    """The address of a database. Its text is the name of the setting that has it."""

    name: str
    """The setting, or the name in DATABASES_FILE."""
    url: str = field(repr=False)
    require_tls: bool = False
    """Whether a connection without TLS is refused, although the URL does not say so."""

    @property
    def uses_tls(self) -> bool:
        """Whether connections are refused if they do not use TLS."""
        mode = dict(parse_qsl(urlsplit(self.url).query)).get("sslmode", "require" if self.require_tls else "prefer")
        return mode in ("require", "verify-ca", "verify-full")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """The databases that rows are read from and results are loaded into, and the tables there."""

    results: Address | None
    named: Mapping[str, Address]
    """The databases of DATABASES_FILE by name."""
    allowed_tables: tuple[str, ...]
    """Patterns of ``schema.table``. If empty, no table may be loaded."""
    load_connections: int = DEFAULT_LOAD_CONNECTIONS
    """Maximum number of connections with which all workers load one job at the same time."""
    source: Address | None = None
    """The database from which rows are read, which may be a follower."""
    allowed_sources: tuple[str, ...] = ()
    """Patterns of ``schema.table``. If empty, jobs may name queries, but no table."""
    source_timeout_s: int = DEFAULT_SOURCE_TIMEOUT_S
    """Seconds after which the server ends a query."""
    source_connections: int = 1
    """Maximum number of connections with which one process reads the rows of a job."""
    queries_file: Path = Path("queries.toml")
    """The file with the queries. If it does not exist, the queries are read from the bucket."""
    queries_required: bool = False
    """Whether the file must exist, because a setting names it."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> DatabaseSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults, but no address."""
        env = Environment(environ)
        on_heroku = bool(env.text("DYNO"))
        results, source = (_first(env, name, on_heroku) for name in ("RESULTS_DATABASE_URL", "SOURCE_DATABASE_URL"))
        file, named = env.text("DATABASES_FILE"), {}
        if file:
            named = _read(env, file, on_heroku)
        tables, sources = _patterns(env, "ALLOWED_TABLES"), _patterns(env, "ALLOWED_SOURCES")
        connections = env.number("LOAD_CONNECTIONS", DEFAULT_LOAD_CONNECTIONS, minimum=1)
        timeout_s = env.number("SOURCE_TIMEOUT_S", DEFAULT_SOURCE_TIMEOUT_S, minimum=1)
        readers = env.number("SOURCE_CONNECTIONS", 1, minimum=1)
        if readers > MOST_SOURCE_CONNECTIONS:
            env.faults.append(f"SOURCE_CONNECTIONS={readers} is more than {MOST_SOURCE_CONNECTIONS}")
        if timeout_s > MOST_SOURCE_TIMEOUT_S:
            env.faults.append(f"SOURCE_TIMEOUT_S={timeout_s} is more than {MOST_SOURCE_TIMEOUT_S}")
        queries = env.text("QUERIES_FILE")
        env.finish()
        return cls(
            results=results,
            named=named,
            allowed_tables=tables,
            load_connections=connections,
            source=source,
            allowed_sources=sources,
            source_timeout_s=timeout_s,
            source_connections=readers,
            queries_file=Path(queries or "queries.toml"),
            queries_required=bool(queries),
        )

    def address(self, name: str | None) -> Address:
        """Return a database by its name in DATABASES_FILE, or the database of results; raises `InvalidSettings`."""
        if name is None:
            if self.results is None:
                raise InvalidSettings("RESULTS_DATABASE_URL is not set for the workers: no database is known")
            return self.results
        if name not in self.named:
            known = ", ".join(sorted(self.named)) or "none"
            raise InvalidSettings(f"DATABASES_FILE of the workers has no database {name!r}; it has {known}")
        return self.named[name]

    def source_address(self, name: str | None) -> Address:
        """Return a database by its name in DATABASES_FILE, or the database that rows are read from."""
        if name is not None:
            return self.address(name)
        if self.source is None:
            raise InvalidSettings("SOURCE_DATABASE_URL is not set for the workers: no database to read from is known")
        return self.source

    def check_source(self, table: str) -> None:
        """Raise `TableNotAllowed` unless ``schema.table`` matches a pattern of ALLOWED_SOURCES."""
        if not any(fnmatchcase(table, pattern) for pattern in self.allowed_sources):
            allowed = ", ".join(self.allowed_sources) or "which is not set, so that only queries may be named"
            raise TableNotAllowed(f"table {table} is not in ALLOWED_SOURCES of the workers: {allowed}")

    def check_table(self, table: str) -> None:
        """Raise `TableNotAllowed` unless ``schema.table`` matches a pattern of ALLOWED_TABLES."""
        if not any(fnmatchcase(table, pattern) for pattern in self.allowed_tables):
            allowed = ", ".join(self.allowed_tables) or "which is not set, so that no table is allowed"
            raise TableNotAllowed(f"table {table} is not in ALLOWED_TABLES of the workers: {allowed}")


def _first(env: Environment, name: str, on_heroku: bool) -> Address | None:
    """Return the database that a setting names, or else DATABASE_URL, if that is a database of PostgreSQL."""
    url = env.text(name)
    if not url and _is_postgres(env.text("DATABASE_URL")):
        name, url = env.first("DATABASE_URL")
    if url and not _is_postgres(url):
        env.faults.append(f"{name} is not an address such as postgresql://user:password@host/database")
    return Address(name=name, url=url, require_tls=on_heroku) if url else None


def _patterns(env: Environment, name: str) -> tuple[str, ...]:
    """Return patterns of ``schema.table``. A pattern without a schema stands for tables in ``public``."""
    patterns = tuple(item for item in re.split(r"[\s,]+", env.text(name)) if item)
    for item in patterns:
        if item.count(".") > 1:
            env.faults.append(f"{name}: {item!r} is not of the form schema.table, in which * may occur")
    return tuple(item if "." in item else f"public.{item}" for item in patterns)


def _is_postgres(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in _SCHEMES and parts.port != 0
    except ValueError:  # the port is not a number
        return False


def _read(env: Environment, file: str, on_heroku: bool) -> dict[str, Address]:
    """Read a TOML file of names and addresses. A fault quotes no line of it."""
    try:
        found = tomllib.loads(Path(file).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        env.faults.append(f"DATABASES_FILE={file!r} cannot be read: {reason}")
        return {}
    named: dict[str, Address] = {}
    for name, url in found.items():
        if isinstance(url, str) and _is_postgres(url):
            named[name] = Address(name=name, url=url, require_tls=on_heroku)
        else:
            env.faults.append(f'DATABASES_FILE: {name!r} is not of the form NAME = "postgresql://…"')
    return named
