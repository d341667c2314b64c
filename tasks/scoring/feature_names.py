"""Finds the input column for each feature name of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from scoreline.storage.errors import MissingColumns


def match_names(names: Sequence[str], columns: Sequence[str], replaces_blanks: Callable[[], bool]) -> tuple[str, ...]:
    """Return the column for each name, in the order of the names.

    LightGBM stores the name ``store number`` as ``store_number``. Therefore a name with underscores also matches a
    column with blanks. A name that matches no column is returned unchanged.

    Parameters
    ----------
    names : sequence of str
        Feature names as the model stores them.
    columns : sequence of str
        Columns of the input.
    replaces_blanks : callable
        Returns whether the model replaces blanks in the names of its features. Called only if the answer matters.

    Raises
    ------
    MissingColumns
        No column is missing, but several columns match the same name.

    Examples
    --------
    >>> match_names(["paid_amount", "store_number"], ["store number", "paid amount"], lambda: True)
    ('paid amount', 'store number')
    >>> match_names(["store_number"], ["store number"], lambda: False)
    ('store_number',)
    """
    spelled: dict[str, list[str]] = defaultdict(list)
    for column in dict.fromkeys(columns):
        spelled[column.replace(" ", "_")].append(column)
    changed = any(spelled.get(name, [name]) != [name] for name in names)
    if not changed or any(" " in name for name in names) or not replaces_blanks():
        return tuple(names)
    for name in names:
        if len(candidates := spelled.get(name, [])) > 1:
            raise MissingColumns(
                f"the model keeps the name of a feature as {name!r}, with underscores for blanks, and the input has "
                f"{' and '.join(map(repr, candidates))}: name the features with --features, in the model's order"
            )
    return tuple(spelled.get(name, [name])[0] for name in names)
