"""Which objects an input names, and what their footers say."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from storage.errors import InputNotFound, MissingColumns, ObjectNotFound, UnreadableInput
from storage.objects.base import ObjectInfo, ObjectStore
from storage.tables.parquet import Footer, ParquetReader
from tasks.plan import InputFile

_FOOTER_THREADS = 8
_GLOB = re.compile(r"[*?\[]")


def find(store: ObjectStore, pattern: str) -> list[ObjectInfo]:
    """List the objects that an input names, in the order of their keys.

    A key that ends in ``/`` stands for all below it whose steps do not begin with ``_`` or ``.``; one with ``*``, ``?``
    or ``[`` is a glob in which ``*`` matches ``/`` too; any other is one object.

    Raises
    ------
    InputNotFound
        There is none.
    """
    if not pattern or pattern.endswith("/"):
        found = [info for info in store.list(pattern) if _visible(info.key.removeprefix(pattern))]
        what = "the prefix is empty"
    elif magic := _GLOB.search(pattern):
        literal = pattern[: magic.start()]
        matches = re.compile(fnmatch.translate(pattern)).match
        found = [info for info in store.list(literal) if matches(info.key) and _visible(info.key)]
        what = "nothing matches the glob"
    else:
        try:
            return [store.head(pattern)]
        except ObjectNotFound:
            found, what = [], "there is no such object (a prefix has to end with '/')"
    if not found:
        raise InputNotFound(f"no input at {store.uri(pattern)}: {what}")
    return found


def read_footers(
    tables: ParquetReader, store: ObjectStore, found: Sequence[ObjectInfo]
) -> list[tuple[InputFile, pa.Schema]]:
    """Read the footers of all objects, several at a time (raises `UnreadableInput`)."""

    def read(info: ObjectInfo) -> Footer:
        if not info.key.endswith((".parquet", ".parq", ".pq")):
            raise UnreadableInput(f"{store.uri(info.key)} is not named as Parquet (.parquet)")
        return tables.footer(store, info.key, info.size, info.etag)

    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="footer") as pool:
        footers = list(pool.map(read, found))
    return [
        (
            InputFile(
                key=info.key,
                size=info.size,
                etag=info.etag,
                group_rows=footer.group_rows,
                group_bytes=footer.group_bytes,
            ),
            footer.schema,
        )
        for info, footer in zip(found, footers, strict=True)
    ]


def check_columns(uri: str, schema: pa.Schema, first: pa.Schema, features: Sequence[str], keep: Sequence[str]) -> None:
    """Refuse an object that lacks columns, or whose kept columns have other types than in the first object.

    Raises
    ------
    MissingColumns
        Naming the object and every column that is not there.
    UnreadableInput
        Naming the object and the column whose type differs, or that is there twice.
    """
    missing = [name for name in (*features, *keep) if name not in schema.names]
    if missing:
        raise MissingColumns(
            f"{uri} lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, schema.names[:20]))}"
        )
    for name in (*features, *keep):
        if schema.names.count(name) > 1:
            raise UnreadableInput(f"{uri} has the column {name!r} twice")
    for name in keep:
        if schema.field(name).type != first.field(name).type:
            raise UnreadableInput(
                f"{uri} has {name!r} as {schema.field(name).type}, the first object as {first.field(name).type}"
            )


def _visible(key: str) -> bool:
    return not any(step.startswith(("_", ".")) for step in key.split("/"))
