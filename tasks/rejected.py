"""Why rows of a job could not be scored: counts by reason, with examples, out of its ``_rejected/`` objects."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from storage import keys
from storage.errors import RecordCorrupt, ScorelineError
from storage.objects.base import ObjectStore

_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w.])[-+]?\d[\w.+-]*")
_OURS = 4
"""Columns that Scoreline adds at the end: source, row, stage, message."""
MAX_REASONS = 1_000
OTHER = "(other reasons)"


@dataclass(kw_only=True)
class Reason:
    """Rows that could not be scored for the same reason."""

    stage: str
    message: str
    """Without the values that differ from row to row."""
    rows: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    """Rows by input object."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """``source``, ``row``, ``message``, and ``columns``: the row as it came."""


def reasons(store: ObjectStore, folder: str, *, examples: int = 3) -> list[Reason]:
    """Read the rejected rows below a job's results; an object is in memory at a time.

    Parameters
    ----------
    folder : str
        Of the results.
    examples : int
        Rows to show of each reason, the first ones.

    Returns
    -------
    list of Reason
        The most frequent first. Beyond `MAX_REASONS` of them, the rest are counted together.

    Raises
    ------
    ScorelineError
        pyarrow is not installed.
    RecordCorrupt
        An object is not what Scoreline writes.
    """
    found: dict[tuple[str, str], Reason] = {}
    for row, columns in _rows(store, folder):
        key = (row["stage"], normalised(row["message"]))
        if key not in found and len(found) >= MAX_REASONS:
            key = ("", OTHER)
        reason = found.setdefault(key, Reason(stage=key[0], message=key[1]))
        reason.rows += 1
        reason.sources[row["source"]] = reason.sources.get(row["source"], 0) + 1
        if len(reason.examples) < examples:
            shown = {name: row[name] for name in ("source", "row", "message")}
            reason.examples.append(shown | {"columns": columns})
    return sorted(found.values(), key=lambda reason: -reason.rows)


def normalised(message: str) -> str:
    """Put a sign for each value, so that messages of the same kind are the same.

    >>> normalised("ValueError: could not convert string to float: 'n/a' (row 12, x is 1.5e-3)")
    'ValueError: could not convert string to float: … (row …, x is …)'
    """
    return _VALUES.sub("…", message)


def _rows(store: ObjectStore, folder: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what Scoreline says of each row, and the row as it came."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ScorelineError("reading rejected rows needs pyarrow: pip install -r ml-requirements.txt") from error
    for info in store.list(keys.rejected_folder(folder)):
        try:
            file = pq.ParquetFile(io.BytesIO(store.get(info.key).data))
            names = file.schema_arrow.names
            if len(names) < _OURS:
                raise RecordCorrupt(f"{store.uri(info.key)} is not what Scoreline writes there: it has {names}")
            for batch in file.iter_batches():
                # By position: their names have a `_` before them where the input had such columns itself.
                told = pa.table(batch.columns[-_OURS:], names=["source", "row", "stage", "message"]).to_pylist()
                came = batch.select(names[:-_OURS]).to_pylist()
                yield from zip(told, came, strict=True)
        except (pa.ArrowException, OSError) as error:
            raise RecordCorrupt(f"{store.uri(info.key)} is not what Scoreline writes there: {error}") from error
