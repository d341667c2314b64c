"""Keeps the labels of an output, sorted by the hashes of their keys, and merges new ones into them.

No key is kept, only its 128 bits of hash. The labels are sorted in `PARTITIONS` pieces on the local disk, so that one
piece is in memory at a time. The result is mapped into memory: 32 bytes for each label, which the system may drop and
read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest
from scoreline.storage.wording import plural
from scoreline.tasks.quality.outcomes.outcome_labels import LabelInput
from scoreline.tasks.quality.results.key_texts import key_codes, key_hashes

PARTITIONS = 64
"""Number of pieces in which labels are sorted. A piece of 10 million labels has 6 MB."""
LARGEST = 1e60
"""Largest number that can be compared. The fourth powers of larger errors are infinite."""
MAX_CLASSES = 1_000
"""Maximum number of different texts of a target."""
SHOWN = 5
"""Maximum number of examples in a message."""
_SHIFT = np.uint64(58)
_DTYPE = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("value", "<f8"), ("at", "<i8"), ("row", "<i8")])
_STORED = -1
"""Row number of a label that was added before."""


@dataclass(kw_only=True)
class Added:
    """What became of the rows of a file."""

    rows: int = 0
    null_targets: int = 0
    """Rows without a label yet, which are left out."""
    repeated: int = 0
    """Rows that say again what is known."""
    new: int = 0
    """Keys that had no label before."""
    corrected: int = 0
    """Keys whose label was replaced by another."""
    older: int = 0
    """Rows whose time is earlier than that of the label that is known."""


@dataclass(kw_only=True)
class Labels:
    """All labels of an output, sorted by hash and mapped into memory."""

    hi: Any
    lo: Any
    value: Any
    """The number of a numeric target, or the place of a text in `texts`: ndarray of float64."""
    row: Any
    """Number of the row in the file, or `_STORED`: ndarray of int64."""
    texts: Sequence[str] | None
    """The texts of the target; None if it is a number."""
    path: Path
    """The labels as the Parquet file to store."""
    sha256: str
    added: Added

    def __len__(self) -> int:
        return len(self.hi)

    def find(self, keys: pa.LargeStringArray) -> Any:
        """Return the place of the label of each key, or -1: ndarray of int64. A null key has no label."""
        found = np.full(len(keys), -1, np.int64)
        known = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
        if not len(known) or not len(self):
            return found
        hi, lo = key_hashes(keys.drop_null())
        order = np.argsort(hi)  # neighbouring searches then read the same pages
        hi, lo = hi[order], lo[order]
        places = np.searchsorted(self.hi, hi)
        result = np.full(len(hi), -1, np.int64)
        open_ = np.arange(len(hi))
        while len(open_):  # two keys may share the first 64 bits
            inside = places[open_] < len(self)
            open_ = open_[inside]
            same = self.hi[places[open_]] == hi[open_]
            open_ = open_[same]
            hit = self.lo[places[open_]] == lo[open_]
            result[open_[hit]] = places[open_[hit]]
            open_ = open_[~hit]
            places[open_] += 1
        found[known[order]] = result
        return found


@dataclass(kw_only=True)
class _Values:
    """Turns the values of a target into numbers."""

    numeric: bool
    texts: dict[str, int] = field(default_factory=dict)

    def numbers(self, target: pa.Array, name: str) -> Any:
        """Return the number of each value: ndarray of float64; NaN if it is null."""
        if self.numeric:
            if pa.types.is_dictionary(target.type):
                target = target.dictionary_decode()
            return pc.fill_null(target.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)
        texts, codes = key_codes(target, name)
        places = []
        for text in texts:
            if text not in self.texts and len(self.texts) >= MAX_CLASSES:
                raise InvalidRequest(
                    f"the target {name!r} has more than {MAX_CLASSES:,} different texts: name the column with the "
                    "classes, or a column of numbers"
                )
            places.append(self.texts.setdefault(text, len(self.texts)))
        return np.append(np.array(places, float), np.nan)[codes]  # place -1 is NaN


def merge_labels(source: LabelInput, target: str, stored: Path | None, folder: Path) -> Labels:
    """Merge the labels of a file into those that are stored.

    If a key has several labels, the one with the latest time counts; without times, or with equal times, the one that
    was added last. Within one file, a key may have several labels only if they are equal or have different times.

    Parameters
    ----------
    stored : Path, optional
        The labels that are stored, as a Parquet file.
    folder : Path
        An empty folder for temporary files.

    Raises
    ------
    InvalidRequest
        Keys are missing or have several labels, or the target has no values that can be compared. Nothing is written.
    """
    kind = source.target_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    values, added = _Values(numeric=numeric), Added()
    before = _Stored(stored, values) if stored is not None else None
    _scatter(source, target, values, added, folder)
    return _gather(source, before, values, added, folder)


def _scatter(source: LabelInput, target: str, values: _Values, added: Added, folder: Path) -> None:
    """Write the rows of a file to a file for each partition."""
    null_keys = 0
    examples: list[int] = []
    files = [(folder / f"{number}.bin").open("wb") for number in range(PARTITIONS)]
    try:
        for batch in source:
            added.rows += len(batch.keys)
            missing = np.flatnonzero(batch.keys.is_null().to_numpy(zero_copy_only=False))
            null_keys += len(missing)
            examples += [batch.first_row + number for number in missing[: SHOWN - len(examples)].tolist()]
            numbers = values.numbers(batch.target, target)
            if values.numeric and (too_large := np.abs(numbers) > LARGEST).any():
                place = int(np.flatnonzero(too_large)[0])
                what = "infinite" if np.isinf(numbers[place]) else f"beyond {LARGEST:.0e}"
                raise InvalidRequest(
                    f"the target {target!r} is {what} in row {batch.first_row + place:,} of {source.name}: correct it"
                )
            known = ~np.isnan(numbers) & batch.keys.is_valid().to_numpy(zero_copy_only=False)
            added.null_targets += int(np.isnan(numbers).sum())
            keys = batch.keys.filter(pa.array(known))
            found = np.empty(len(keys), _DTYPE)
            found["hi"], found["lo"] = key_hashes(keys)
            found["value"], found["at"] = numbers[known], batch.at[known]
            found["row"] = batch.first_row + np.flatnonzero(known)
            parts = (found["hi"] >> _SHIFT).astype(np.int64)
            found = found[np.argsort(parts, kind="stable")]
            start = 0
            for number, rows in enumerate(np.bincount(parts, minlength=PARTITIONS).tolist()):
                files[number].write(found[start : start + rows].tobytes())
                start += rows
    finally:
        for file in files:
            file.close()
    if null_keys:
        raise InvalidRequest(
            f"{plural(null_keys, 'row')} of {source.name} {'has' if null_keys == 1 else 'have'} no key, such as "
            f"{_rows(examples)}: remove or correct them; nothing was added"
        )
    if not added.rows:
        raise InvalidRequest(f"{source.name} has no rows: nothing was added")
    if added.rows == added.null_targets:
        raise InvalidRequest(f"the target {target!r} is null in every row of {source.name}: nothing was added")


def _gather(source: LabelInput, before: _Stored | None, values: _Values, added: Added, folder: Path) -> Labels:
    """Sort and merge each partition, and write all of them to one file."""
    conflicts = 0
    examples: list[tuple[int, int]] = []
    columns = {name: (folder / f"{name}.column").open("wb") for name in ("hi", "lo", "value", "row")}
    path = folder / "labels.parquet"
    kind = pa.float64() if values.numeric else pa.string()
    schema = pa.schema([("hi", pa.uint64()), ("lo", pa.uint64()), ("target", kind), ("at", pa.timestamp("us", "UTC"))])
    try:
        with pq.ParquetWriter(path, schema, use_dictionary=["target"], compression="zstd") as out:
            for number in range(PARTITIONS):
                piece = folder / f"{number}.bin"
                new = np.fromfile(piece, _DTYPE)
                piece.unlink()
                old = np.empty(0, _DTYPE) if before is None else before.partition(number)
                merged, double = _merge(old, new, added)
                conflicts += len(double)
                examples += double[: SHOWN - len(examples)]
                for name, file in columns.items():
                    file.write(np.ascontiguousarray(merged[name]).tobytes())
                if len(merged):
                    texts = None if values.numeric else pa.array(list(values.texts), pa.string())
                    out.write_table(_table(merged, schema, texts), row_group_size=len(merged))
    finally:
        for file in columns.values():
            file.close()
    if conflicts:
        raise InvalidRequest(
            f"{plural(conflicts, 'key')} of {source.name} {'has' if conflicts == 1 else 'have'} several labels, such "
            f"as {_pairs(source, examples)}: keep one row for each key, or name the time of each label with --time; "
            "nothing was added"
        )
    mapped = {name: _mapped(folder / f"{name}.column", _DTYPE[name]) for name in columns}
    return Labels(
        **mapped, texts=None if values.numeric else list(values.texts), path=path, sha256=_digest(path), added=added
    )


def _merge(old: Any, new: Any, added: Added) -> tuple[Any, list[tuple[int, int]]]:
    """Return one label for each key, sorted, and the pairs of rows that contradict each other."""
    both = np.concatenate([old, new])
    order = np.lexsort((both["row"], both["at"], both["row"] != _STORED, both["lo"], both["hi"]))
    both = both[order]
    if not len(both):
        return both, []
    same_key = (both["hi"][1:] == both["hi"][:-1]) & (both["lo"][1:] == both["lo"][:-1])
    first = np.flatnonzero(np.append(True, ~same_key))
    lasts = np.append(first[1:], len(both)) - 1
    is_new = both["row"] != _STORED
    same_value = both["value"][1:] == both["value"][:-1]
    double = same_key & ~same_value & is_new[1:] & is_new[:-1] & (both["at"][1:] == both["at"][:-1])
    places = np.flatnonzero(double)
    _, one_each = np.unique(np.searchsorted(first, places, side="right"), return_index=True)
    pairs = [(int(both["row"][place]), int(both["row"][place + 1])) for place in places[one_each]]
    chosen = lasts.copy()
    had = ~is_new[first]
    # a label that is stored stands first; it stays if its time is later than that of the last new one
    stays = had & (lasts > first) & (both["at"][first] > both["at"][lasts]) & (both["at"][lasts] != 0)
    chosen[stays] = first[stays]
    single_old = had & (lasts == first)
    changed = had & ~stays & ~single_old & (both["value"][chosen] != both["value"][first])
    added.new += int((~had).sum())
    added.corrected += int(changed.sum())
    added.older += int(stays.sum())
    added.repeated += int(is_new.sum()) - int((~had).sum()) - int(changed.sum()) - int(stays.sum())
    merged = both[chosen]
    unchanged = had & ~stays & ~single_old & ~changed
    merged["at"][unchanged] = np.maximum(both["at"][first], both["at"][chosen])[unchanged]
    # rows of this file that are known already still count as rows of this file when keys are looked up
    merged["row"][stays] = both["row"][lasts][stays]
    return merged, pairs


class _Stored:
    """The labels that are stored, partition by partition."""

    def __init__(self, path: Path, values: _Values) -> None:
        try:
            self._file = pq.ParquetFile(path)
            is_number = pa.types.is_floating(self._file.schema_arrow.field("target").type)
        except (pa.ArrowException, KeyError) as error:
            raise DocumentCorrupt(f"the labels that are stored cannot be read: {error}") from error
        if is_number != values.numeric:
            raise InvalidRequest(
                f"the labels that were added before are {'numbers' if is_number else 'texts'}, and these are "
                f"{'numbers' if values.numeric else 'texts'}: name the same target, or read it with --types"
            )
        self._values = values
        self._groups: Mapping[int, int] = {}
        groups = {}
        for group in range(self._file.num_row_groups):
            lowest = self._file.metadata.row_group(group).column(0).statistics.min
            groups[int(lowest) >> int(_SHIFT)] = group
        self._groups = groups

    def partition(self, number: int) -> Any:
        if number not in self._groups:
            return np.empty(0, _DTYPE)
        table = self._file.read_row_group(self._groups[number], use_threads=False)
        found = np.empty(table.num_rows, _DTYPE)
        found["hi"], found["lo"] = table["hi"].to_numpy(), table["lo"].to_numpy()
        found["value"] = self._values.numbers(table["target"].combine_chunks(), "target")
        found["at"] = pc.fill_null(table["at"].cast(pa.int64()), 0).to_numpy()
        found["row"] = _STORED
        return found


def _table(merged: Any, schema: pa.Schema, texts: pa.Array | None) -> pa.Table:
    target = pa.array(merged["value"])
    if texts is not None:
        target = texts.take(pa.array(merged["value"].astype(np.int64)))
    at = pa.array(np.ascontiguousarray(merged["at"]), mask=merged["at"] == 0).cast(pa.timestamp("us", "UTC"))
    return pa.Table.from_arrays([pa.array(merged["hi"]), pa.array(merged["lo"]), target, at], schema=schema)


def keys_at(source: LabelInput, rows: Sequence[int]) -> Iterator[str]:
    """Yield the keys in some rows of a file, for a message. The file is read again."""
    wanted = sorted(rows)
    for batch in source:
        while wanted and wanted[0] < batch.first_row + len(batch.keys):
            yield f"{batch.keys[wanted.pop(0) - batch.first_row].as_py()!r}"
        if not wanted:
            return


def _pairs(source: LabelInput, pairs: Sequence[tuple[int, int]]) -> str:
    by_row = dict(zip(sorted(one for one, _ in pairs), keys_at(source, [one for one, _ in pairs]), strict=True))
    return ", ".join(f"{by_row[one]} (rows {one:,} and {other:,})" for one, other in sorted(pairs))


def _rows(numbers: Sequence[int]) -> str:
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(f'{number:,}' for number in numbers)}"


def _mapped(path: Path, kind: Any) -> Any:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
