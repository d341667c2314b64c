"""Counts of texts, categories and booleans by value.

If there are too many different values, only some of them are held: those whose hash ends in `level` zero bits. The
level is the smallest one at which the held values fit into the limits. As it grows with the set of values alone, the
held values and their counts do not depend on the order of the values, or on which counts were merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scoreline.tasks.quality.profiles.stable_hash import hash_bytes

MAX_VALUES = 10_000
"""Maximum number of values that are held, unless the limits are others."""
MAX_BYTES = 64 << 10
"""Maximum size in bytes of all held values in UTF-8, unless the limits are others. Profiles of parts contain them."""
MAX_CHARACTERS = 200
"""Longer values are cut to this length, with an ellipsis and their hash."""
SHOWN = 200
"""Number of values that documents list. The others are counted together."""
MAX_LEVEL = 63
"""Maximum level. At this level, values are held even if they exceed the limits."""
_ELLIPSIS = "…#"


@dataclass(frozen=True, kw_only=True)
class Values:
    """Counts of texts by value.

    >>> countries = Values.of(["de", "fr", "de"])
    >>> countries.top(1), countries.distinct, countries.total
    ([('de', 2)], 2, 3)
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of occurrences by value, of the values that are held."""
    total: int = 0
    """Number of occurrences of all values."""
    level: int = 0
    """Number of zero bits in which the hash of a held value ends. 0 if all values are held."""
    unlisted: int = 0
    """Number of held values that a document leaves out because they are rare. They cannot be merged any more."""
    limit: int = MAX_VALUES
    limit_bytes: int = MAX_BYTES

    @classmethod
    def of(cls, values: Iterable[str], limit: int = MAX_VALUES, limit_bytes: int = MAX_BYTES) -> Values:
        """Count texts."""
        counts: dict[str, int] = {}
        for value in values:
            key = key_of(value)
            counts[key] = counts.get(key, 0) + 1
        return cls.of_counts(counts, sum(counts.values()), 0, limit, limit_bytes)

    @classmethod
    def of_counts(
        cls,
        counts: Mapping[str, int],
        total: int,
        level: int = 0,
        limit: int = MAX_VALUES,
        limit_bytes: int = MAX_BYTES,
    ) -> Values:
        """Return the counts by key, with as few of the keys as fit into the limits."""
        held = ValueSum(limit, limit_bytes)
        held.add(counts, total, level)
        return held.values()

    @property
    def is_exact(self) -> bool:
        """Whether the count of each value is known."""
        return not self.level and not self.unlisted

    @property
    def distinct(self) -> int:
        """Number of different values: exact at level 0, otherwise an estimate."""
        return (len(self.counts) + self.unlisted) << self.level

    def top(self, number: int = SHOWN) -> list[tuple[str, int]]:
        """Return the most frequent held values with their counts; values with equal counts in order of the text."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def merge(self, other: Values) -> Values:
        """Return the counts of both; raises `ValueError` if limits differ, or if values are left out."""
        if (self.limit, self.limit_bytes) != (other.limit, other.limit_bytes):
            raise ValueError("values with different limits cannot be merged")
        if self.unlisted or other.unlisted:
            raise ValueError("values of which a document lists only the most frequent cannot be merged")
        if not self.total or not other.total:
            return other if not self.total else self
        held = ValueSum(self.limit, self.limit_bytes)
        held.add(self.counts, self.total, self.level)
        held.add(other.counts, other.total, other.level)
        return held.values()

    def shortened(self, number: int = SHOWN) -> Values:
        """Return the most frequent values alone, as documents list them."""
        listed = dict(self.top(number))
        return Values(
            counts=listed,
            total=self.total,
            level=self.level,
            unlisted=self.unlisted + len(self.counts) - len(listed),
            limit=self.limit,
            limit_bytes=self.limit_bytes,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the held values with their counts. Fields without content are left out."""
        optional = {"level": self.level, "unlisted": self.unlisted}
        limits = {"limit": self.limit, "limit_bytes": self.limit_bytes}
        document = {"total": self.total, "distinct": self.distinct, "counts": dict(self.counts)}
        document |= {name: value for name, value in optional.items() if value}
        return document if (self.limit, self.limit_bytes) == (MAX_VALUES, MAX_BYTES) else document | limits

    @classmethod
    def from_json(cls, raw: Any) -> Values:
        """Read what `to_json` returned; raises `ValueError`, `TypeError` or `LookupError`."""
        counts = raw["counts"]
        numbers = {
            "total": raw["total"],
            "level": raw.get("level", 0),
            "unlisted": raw.get("unlisted", 0),
            "limit": raw.get("limit", MAX_VALUES),
            "limit_bytes": raw.get("limit_bytes", MAX_BYTES),
        }
        if any(type(number) is not int or number < 0 for number in numbers.values()) or numbers["level"] > MAX_LEVEL:
            raise ValueError("a number that describes values is out of range")
        if not isinstance(counts, dict) or any(type(count) is not int or count < 1 for count in counts.values()):
            raise TypeError("the counts of values are not whole numbers")
        return cls(counts=counts, **numbers)


class ValueSum:
    """Adds up counts of values.

    Parameters
    ----------
    limit, limit_bytes : int
        Maximum number of values that are held, and of their bytes.
    """

    def __init__(self, limit: int = MAX_VALUES, limit_bytes: int = MAX_BYTES) -> None:
        self.limit, self.limit_bytes = limit, limit_bytes
        self.level = self.total = self._bytes = 0
        self._counts: dict[str, int] = {}

    def add(self, counts: Mapping[str, int], total: int, level: int = 0) -> None:
        """Add the counts of values by key. They are complete, or those of the values that are held at a level."""
        self.total += total
        if level > self.level:
            self._raise_to(level)
        mask, held = ((1 << self.level) - 1) if level < self.level else 0, self._counts
        for key, count in counts.items():
            if key in held:
                held[key] += count
            elif not mask or not hash_of_key(key) & mask:
                held[key] = count
                self._bytes += _bytes_of(key)
        if len(held) > self.limit or self._bytes > self.limit_bytes:
            self._raise_until_they_fit()

    def _raise_until_they_fit(self) -> None:
        while (len(self._counts) > self.limit or self._bytes > self.limit_bytes) and self.level < MAX_LEVEL:
            self._raise_to(self.level + 1)

    def _raise_to(self, level: int) -> None:
        mask = (1 << level) - 1
        self.level, self._counts = level, {k: n for k, n in self._counts.items() if not hash_of_key(k) & mask}
        self._bytes = sum(map(_bytes_of, self._counts))

    def values(self) -> Values:
        """Return the counts so far."""
        return Values(
            counts=dict(sorted(self._counts.items())),
            total=self.total,
            level=self.level,
            limit=self.limit,
            limit_bytes=self.limit_bytes,
        )


def key_of(value: str) -> str:
    """Return the value, or the beginning of a long value with its hash, so that different values stay different."""
    if len(value) <= MAX_CHARACTERS:
        return value
    return f"{value[:MAX_CHARACTERS]}{_ELLIPSIS}{hash_bytes(value.encode('utf-8', 'surrogatepass')):016x}"


def hash_of_key(key: str) -> int:
    """Return the hash of the whole value that a key stands for.

    >>> hash_of_key("x" * 200) == hash_bytes(b"x" * 200), hash_of_key(key_of("x" * 300)) == hash_bytes(b"x" * 300)
    (True, True)
    """
    if len(key) <= MAX_CHARACTERS:
        return hash_bytes(key.encode("utf-8", "surrogatepass"))
    return int(key[-16:], 16)


def _bytes_of(key: str) -> int:
    return len(key.encode("utf-8", "surrogatepass"))
