"""Which columns of a rejected row tell of its rejection, and which are its own."""

from __future__ import annotations

from collections.abc import Iterable

NOTES = ("source", "row", "stage", "column", "message", "record")
"""Appended to a rejected row: the object it was in, its number there from 0, what it failed at, the column at fault
where it is known, why, and the text of a record that could not be decoded, whose columns are null."""


def note_columns(own: Iterable[str]) -> dict[str, str]:
    """Name the columns that tell of a rejection, beside the row's own columns, which keep their names.

    >>> note_columns(["row", "x"])["row"], note_columns(["x"])["row"]
    ('_row', 'row')
    """
    taken = set(own)
    names = {}
    for note in NOTES:
        free = note
        while free in taken:
            free = f"_{free}"
        names[note] = free
    return names
