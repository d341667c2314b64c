"""Chooses how many rows to score together in a search for failing rows: fewer if many rows have failed so far."""

from __future__ import annotations

from dataclasses import dataclass

_BEST_SHARE = 0.69
"""Number of rows in a group, as a share of the mean distance between failing rows. With ln 2, half of the groups fail,
so that each call yields the most information. Finding a row then takes a tenth more calls than the minimum of
information theory."""
_WEIGHT = 0.1
"""Weight of the last distance in the mean distance between failing rows."""
_LONG = 4
"""If this multiple of the mean distance passes without a failing row, groups grow, because the rows seem to have
changed. After several consecutive failing rows, groups grow again by this factor."""
_FAR = 8
"""If a distance exceeds this multiple of the mean distance, its weight in the new mean is one half."""


@dataclass(kw_only=True)
class GroupSize:
    """Chooses the size of the next group, based on the results of the groups before.

    Examples
    --------
    >>> group = GroupSize(rows=64)
    >>> group.passed(64)
    >>> group.rows
    128
    >>> group.failed_after(35)  # the 100th row fails
    >>> group.rows
    69
    >>> group.failed_after(0)  # and the next one
    >>> group.rows
    1
    """

    rows: int
    """Number of rows to score together."""
    _distance: float | None = None
    """Mean distance between failing rows; None before the first failing row."""
    _passed: int = 0
    """Number of rows that were scored since the last failing row."""

    def passed(self, rows: int) -> None:
        """Record that a group of rows was scored."""
        self._passed += rows
        if self._distance is None:
            self.rows *= 2
            return
        best = max(1, round(_BEST_SHARE * self._distance))
        if self.rows < best:
            self.rows = min(_LONG * self.rows, best)
        elif self._passed > _LONG * self._distance:
            self.rows *= 2

    def failed_after(self, rows: int) -> None:
        """Record that `rows` rows of a group were scored, and that the next row fails."""
        distance = self._passed + rows + 1
        if self._distance is None:
            self._distance = float(distance)
        else:
            weight = _WEIGHT if distance < _FAR * self._distance else 0.5
            self._distance += weight * (distance - self._distance)
        self._passed = 0
        self.rows = 1 if distance == 1 else max(1, round(_BEST_SHARE * self._distance))

    def start_again(self) -> None:
        """Begin again with single rows, because the rows most likely to fail were just moved to the front."""
        self.rows, self._distance, self._passed = 1, 1.0, 0
