"""Sums of float64 values without rounding, so that the order of the values does not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

SCALE_BITS = 1074
"""The smallest positive float64 is 2**-1074, so every finite float64 is a multiple of it."""
_MAX_UNITS_BITS = 4_096
"""More bits than the sum of 2**64 of the largest float64 has. A damaged document must not fill the memory."""
_DIGITS = re.compile(r"-?[0-9a-f]{1,1024}")


@dataclass(frozen=True)
class ExactSum:
    """An exact sum of finite float64 values.

    >>> ExactSum.of([1e16, 0.5, -1e16]).value(), 1e16 + 0.5 - 1e16
    (Fraction(1, 2), 0.0)
    """

    units: int = 0
    """The sum as a multiple of 2**-1074."""

    @classmethod
    def of(cls, values: Iterable[float]) -> ExactSum:
        """Return the sum of finite values."""
        return cls(sum(map(_units_of, values)))

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units)

    def value(self) -> Fraction:
        """Return the sum as a fraction."""
        return Fraction(self.units, 1 << SCALE_BITS)

    def to_json(self) -> list[str | int]:
        """Return an integer as hexadecimal digits and a power of two, whose product is the sum.

        >>> ExactSum.of([3.0, 0.5]).to_json()
        ['7', -1]
        """
        if not self.units:
            return ["0", 0]
        zeros = (self.units & -self.units).bit_length() - 1
        return [f"{self.units >> zeros:x}", zeros - SCALE_BITS]

    @classmethod
    def from_json(cls, raw: Any) -> ExactSum:
        """Read what `to_json` returned; raises `ValueError` or `TypeError`."""
        return cls(read_units(raw))


def read_units(raw: Any) -> int:
    """Return the units of the sum that `ExactSum.to_json` returned; raises `ValueError` or `TypeError`."""
    digits, power = raw
    if not isinstance(digits, str) or type(power) is not int or not _DIGITS.fullmatch(digits):
        raise TypeError("a sum is not a text of hexadecimal digits and a whole number")
    if not -SCALE_BITS <= power <= _MAX_UNITS_BITS:
        raise ValueError("the power of two of a sum is out of range")
    return int(digits, 16) << (power + SCALE_BITS)


def _units_of(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (SCALE_BITS + 1 - denominator.bit_length())
