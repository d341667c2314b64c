"""Turns a batch of a job into what its challenger scores, and the challenger's scores into rows of the champion."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import InputError, describe
from scoreline.storage.tables.schemas import from_text, to_text
from scoreline.tasks.job.plan import ChallengerColumns, Columns
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.settled_types import settle


def rows_for(
    batch: pa.RecordBatch, columns: Columns, challenger: ChallengerColumns, reads: pa.Schema
) -> tuple[pa.RecordBatch, Contract]:
    """Return the rows that the challenger scores, and the rules that they must meet, which are those of the job.

    Parameters
    ----------
    reads : pyarrow.Schema
        The schema in `ChallengerColumns.reads`.
    """
    rows = settle(batch.select(reads.names), reads)
    for rule in columns.rules:
        if rule.column not in rows.schema.names:
            rows = rows.append_column(batch.schema.field(rule.column), batch.column(rule.column))
    return rows, Contract(columns.rules)


def without_extra(columns: Columns, challenger: ChallengerColumns) -> Columns:
    """Return the columns without those that only the challenger needs.

    Parameters
    ----------
    challenger : ChallengerColumns
        What takes the place of the challenger's columns, because it has failed.
    """
    names = set(columns.names)
    reads = pa.schema([field for field in from_text(columns.reads) if field.name in names])
    folders = tuple(name for name in columns.folders if name in names)
    return replace(columns, challenger=challenger, reads=to_text(reads), folders=folders)


def aligned(
    champion: pa.Table,
    rejected: Any,
    challenger: pa.Table,
    challenger_rejected: Any,
    schema: pa.Schema,
    kept: Collection[str],
) -> tuple[pa.Table, Any]:
    """Return the challenger's scores in the rows that the champion has scored, and which of them it has scored.

    Parameters
    ----------
    champion, challenger : pyarrow.Table
        The results of one batch.
    rejected, challenger_rejected : ndarray of int
        The rows of the batch that each has rejected.
    schema : pyarrow.Schema
        The planned columns of the challenger's results.
    kept : collection of str
        The kept columns, which are taken from the champion's results.

    Raises
    ------
    InputError
        The challenger's results do not fit the planned columns.
    """
    rows = champion.num_rows + len(rejected)
    places = np.full(rows, -1, np.int64)
    scored = np.delete(np.arange(rows), challenger_rejected)
    places[scored] = np.arange(len(scored))
    places = np.delete(places, rejected)
    present = places >= 0
    taken = pa.array(places, mask=~present)
    is_same = len(scored) == len(places) and bool(present.all())
    columns = []
    for field in schema:
        is_kept = field.name in kept
        try:
            column = (champion if is_kept else challenger).column(field.name).cast(field.type)
        except (pa.ArrowException, KeyError) as error:
            raise InputError(f"its results do not fit those of the first rows: {describe(error)}") from error
        columns.append(column if is_same or is_kept else column.take(taken))
    return pa.Table.from_arrays(columns, schema=schema), present
