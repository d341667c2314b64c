"""Draws random inputs, and the rows that must be rejected."""

from __future__ import annotations

import io
import json
import math
import random
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.objects.base import ObjectStore

PART_ROWS = 100
LARGE = 2e6
"""A value that `Choosy` refuses."""
FORMATS = ("parquet", "csv", "jsonl")
FAULTS = {"parquet": ("missing", "infinite", "large"), "csv": ("missing", "infinite", "large", "text", "broken")}
FAULTS["jsonl"] = ("missing", "large", "text", "broken")


@dataclass(kw_only=True)
class Input:
    """An input in the bucket. The value ``x`` of a sound row equals its ``id``. Ids continue from object to object."""

    uri: str
    rows: int = 0
    first_ids: dict[str, int] = field(default_factory=dict)
    """The id of the first row of each object, by URI."""
    faults: dict[int, str] = field(default_factory=dict)
    """What is wrong with a row, by its id."""

    @property
    def values(self) -> dict[int, float]:
        """The value of each row that contains a number, whether or not the row is sound."""
        odd = {"missing": math.nan, "infinite": math.inf, "large": LARGE}
        wrong = {id_: odd[what] for id_, what in self.faults.items() if what in odd}
        return {id_: float(id_) for id_ in range(self.rows) if id_ not in self.faults} | wrong


def put_input(
    store: ObjectStore, chance: random.Random, folder: str, *, parts: int, faulty: int = 0, kinds: tuple[str, ...] = ()
) -> Input:
    """Write one to three objects in a random format, with rows for `parts` parts in all, and make `faulty` rows wrong.

    Parameters
    ----------
    kinds : tuple of str, optional
        What may be wrong with a row; by default, all that its format allows.
    """
    form = chance.choice(FORMATS if not kinds else ("parquet", "jsonl"))
    found = Input(uri=store.uri(f"{folder}/"), rows=parts * PART_ROWS)
    for id_ in chance.sample(range(found.rows), faulty):
        found.faults[id_] = chance.choice([what for what in FAULTS[form] if not kinds or what in kinds])
    cuts = sorted(chance.sample(range(1, parts), min(parts - 1, chance.randrange(3))))
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, parts], strict=True)):
        key = f"{folder}/{number}.{form}"
        ids = range(start * PART_ROWS, stop * PART_ROWS)
        found.first_ids[store.uri(key)] = ids.start
        store.put(key, _ENCODERS[form](found, ids))
    return found


def _parquet(made: Input, ids: range) -> bytes:
    x = [None if made.faults.get(id_) == "missing" else made.values[id_] for id_ in ids]
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": list(ids), "x": pa.array(x, pa.float64())}), sink, row_group_size=PART_ROWS)
    return sink.getvalue()


def _csv(made: Input, ids: range) -> bytes:
    odd = {"missing": "{},", "infinite": "{},inf", "large": f"{{}},{LARGE}", "text": "{},oops", "broken": "{},1,2,3"}
    lines = [odd.get(made.faults.get(id_, ""), "{0},{0}").format(id_) for id_ in ids]
    return ("id,x\n" + "\n".join(lines) + "\n").encode()


def _jsonl(made: Input, ids: range) -> bytes:
    def line(id_: int) -> str:
        what = made.faults.get(id_)
        if what == "broken":
            return f'{{"id": {id_}, "x": '
        value = {"missing": None, "text": "oops"}[what] if what in ("missing", "text") else made.values[id_]
        return json.dumps({"id": id_, "x": value})

    return ("\n".join(map(line, ids)) + "\n").encode()


_ENCODERS = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
