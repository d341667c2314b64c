"""The user's prices, and what work costs at these prices."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.objects.requests import Requests

_GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The content of `PRICES_FILE`. A price that is not given is 0, and its kind of cost is left out."""

    currency: str = "USD"
    dyno_hour: float = 0.0
    class_a_million: float = 0.0
    """Price of a million class A operations, which write or list objects."""
    class_b_million: float = 0.0
    """Price of a million class B operations, which read objects."""
    gb_month: float = 0.0
    """Price of storing a gigabyte (1,000,000,000 bytes) for a month."""

    @classmethod
    def read(cls, path: Path) -> Prices:
        """Read a TOML file; raises `InvalidSettings` with a message that names each key with a fault."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidSettings(f"PRICES_FILE {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"PRICES_FILE {path} is not TOML: {error}") from error
        known = [item.name for item in fields(cls)]
        faults = [f"{name!r} is unknown: the keys are {', '.join(known)}" for name in raw if name not in known]
        for name in known:
            if name in raw and (fault := _fault(name, raw[name])):
                faults.append(fault)
        if not faults and not raw.keys() - {"currency"}:
            faults.append(f"it has no price: set one of {', '.join(known[1:])}")
        if faults:
            raise InvalidSettings(f"PRICES_FILE {path}: {'; '.join(faults)}")
        return cls(**raw)

    def of(self, work_s: float, requests: Requests, stored_bytes: int, worker_size: int) -> Mapping[str, float]:
        """Return what work costs, by kind, without kinds that have no price.

        Parameters
        ----------
        work_s : float
            Seconds that processes work.
        stored_bytes : int
            Size of the results, which are stored for a month.
        worker_size : int
            Number of processes of a dyno. A dyno is assumed to have work for all of them.

        >>> Prices(dyno_hour=0.36, class_b_million=1.0).of(7_200, Requests(class_b=500_000), 0, 2)
        {'dynos': 0.36, 'class B': 0.5}
        """
        costs = {
            "dynos": self.dyno_hour * work_s / 3_600 / max(1, worker_size),
            "class A": self.class_a_million * requests.class_a / 1e6,
            "class B": self.class_b_million * requests.class_b / 1e6,
            "storage for a month": self.gb_month * stored_bytes / _GB,
        }
        prices = (self.dyno_hour, self.class_a_million, self.class_b_million, self.gb_month)
        return {kind: cost for (kind, cost), price in zip(costs.items(), prices, strict=True) if price}

    def in_words(self, costs: Mapping[str, float]) -> str:
        """Format costs for people.

        >>> Prices(currency="EUR").in_words({"dynos": 0.36, "class B": 0.00012})
        '0.36 EUR: dynos 0.36, class B 0.00012'
        """
        each = ", ".join(f"{kind} {_amount(cost)}" for kind, cost in costs.items())
        return f"{_amount(sum(costs.values()))} {self.currency}: {each}"


def _fault(name: str, value: object) -> str:
    if name == "currency":
        ok = isinstance(value, str) and 1 <= len(value) <= 10 and value.isprintable()
        return "" if ok else f"{name} = {value!r} is not a short text such as 'USD'"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    ok = number and math.isfinite(float(str(value))) and float(str(value)) >= 0
    return "" if ok else f"{name} = {value!r} is not a number of at least 0"


def _amount(value: float) -> str:
    """Return an amount with two decimals, or with two digits if it is small."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{float(f'{value:.2g}'):.10f}".rstrip("0")
