"""Which columns of an input are scored and carried over, and what type each is read as. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import (
    InvalidRequest,
    MissingColumns,
    UnreadableInput,
)
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.tables.type_inference import ARROW_TYPES
from scoreline.tasks.inputs.hive_partitions import types_of, values_of
from scoreline.tasks.inputs.listing import Surveyed
from scoreline.tasks.job.spec import JobSpec, kept_names

_TEXT_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
"""What text can be read as."""
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What each part reads."""

    reads: pa.Schema
    """Features, then kept columns."""
    keep: tuple[str, ...]
    folders: tuple[str, ...]
    """Those that the names of folders give: no object has such a column."""
    padded: tuple[str, ...]
    """Features in text that are numbers, some of them with zeros in front: read as numbers, as pandas does."""
    mixed: tuple[str, ...]
    """Features in text that are numbers in some rows and texts in others: the model has to be asked."""


def available(surveyed: Sequence[Surveyed]) -> pa.Schema:
    """Columns of the first object that has any, and those of its folders."""
    first = _first(surveyed)
    if first is None:
        return pa.schema([])
    folders = types_of(item.file.key for item in surveyed)
    own = set(first.schema.names)
    more = [pa.field(name, folders[name]) for name in values_of(first.file.key) if name not in own]
    return pa.schema([*first.schema, *more])


def settle(
    surveyed: Sequence[Surveyed], features: Sequence[str], keep: str, told: Mapping[str, str] | None = None
) -> Settled:
    """Check the columns of every object against what is to be scored and kept.

    Parameters
    ----------
    keep : str
        ``all``: whatever the first object has that is no feature, nested columns left out; ``none``; or names.
    told : mapping of str to str, optional
        Types of columns of text, as `ReadOptions.types`.

    Raises
    ------
    MissingColumns
        Naming the object and every column that is not there.
    UnreadableInput
        Naming the object and the column that is there twice, or of another type than in the first object.
    """
    kept = _kept(keep, available(surveyed), features)
    names = tuple(dict.fromkeys((*features, *kept)))
    own = {name for item in surveyed for name in item.schema.names}
    folder_types = types_of(item.file.key for item in surveyed)
    folders = tuple(name for name in names if name in folder_types and name not in own)
    scored = set(features)
    seen = {name: _Seen(name=name, kept=name not in scored) for name in names if name not in folders}
    for item in surveyed:
        if len(item.schema):
            _note_types(item, seen, folders)
    told = told or {}
    in_text = {name for item in surveyed if item.text for name in item.schema.names} if told else set()
    if unknown := [name for name in told if name not in in_text]:
        raise MissingColumns(f"types are told for {_listed(unknown)}, and no CSV or JSON Lines of the input has that")
    types = {name: folder_types[name] for name in folders} | {
        name: ARROW_TYPES[told[name]] if name in told else found.settled() for name, found in seen.items()
    }
    for name in features:
        if is_nested(types[name]):
            raise UnreadableInput(f"the feature {name!r} is {types[name]}: estimators take numbers, texts, times")
    mixed = tuple(name for name in features if name in seen and not seen[name].kept and name not in told)
    return Settled(
        reads=pa.schema([pa.field(n, types[n], metadata={"feature": "1"} if n in scored else None) for n in names]),
        keep=kept,
        folders=folders,
        padded=tuple(name for name, found in seen.items() if found.padded and name not in told),
        mixed=tuple(name for name in mixed if seen[name].is_mixed()),
    )


@dataclass(kw_only=True)
class _Seen:
    """What the objects have of a column."""

    name: str
    kept: bool
    typed: pa.DataType | None = None
    """In the first object with types of its own."""
    typed_in: str = ""
    texts: dict[pa.DataType, str] = field(default_factory=dict)
    """Guesses of texts, with an object of each."""
    mixed: bool = False
    padded: bool = False

    def add(self, item: Surveyed, column: pa.Field) -> None:
        """Take note of one object."""
        if item.text:
            numbers = float((column.metadata or {}).get(b"numbers", 0))
            padded = numbers == 1 and not self.kept
            self.texts.setdefault(pa.float64() if padded else column.type, item.uri)
            self.padded = self.padded or padded
            self.mixed = self.mixed or 0 < numbers < 1
        elif self.typed is None:
            self.typed, self.typed_in = column.type, item.uri
        elif self.kept and column.type != self.typed and _value_type(column.type) != _value_type(self.typed):
            raise UnreadableInput(f"{item.uri} has {self.name!r} as {column.type}, {self.typed_in} as {self.typed}")

    def settled(self) -> pa.DataType:
        """Return what it is read as: its type in tables with types of their own, else what suits all texts."""
        if self.typed is None:
            return _merged(list(self.texts), kept=self.kept)
        if self.texts and _value_type(self.typed) not in _TEXT_TYPES:
            raise UnreadableInput(
                f"{next(iter(self.texts.values()))} has {self.name!r} as text, {self.typed_in} as {self.typed}, which "
                "text is not read as"
            )
        return _value_type(self.typed) if self.texts else self.typed

    def is_mixed(self) -> bool:
        """Whether it is text in which some values are numbers, or numbers in some objects alone."""
        numbers = [kind in (pa.int64(), pa.float64()) for kind in self.texts if not pa.types.is_null(kind)]
        return self.typed is None and (self.mixed or (any(numbers) and not all(numbers)))


def _note_types(item: Surveyed, seen: Mapping[str, _Seen], folders: Sequence[str]) -> None:
    """Take note of the columns of one object; refuse it where it lacks one, or has it twice."""
    here = values_of(item.file.key)
    columns: dict[str, pa.Field] = {}
    for column in item.schema:
        if column.name in columns and column.name in seen:
            raise UnreadableInput(f"{item.uri} has the column {column.name!r} twice")
        columns[column.name] = column
    missing = [name for name in seen if name not in columns] + [name for name in folders if name not in here]
    if missing:
        has = [*item.schema.names, *(name for name in here if name in folders)]
        marks = [mark for mark in (";", "\t", "|", ",") if item.text and len(has) == 1 and mark in has[0]]
        hint = f": is the delimiter {marks[0]!r}? Say so with --delimiter" if marks else ""
        raise MissingColumns(f"{item.uri} lacks {_listed(missing)}; it has {_listed(has)}{hint}")
    for name, found in seen.items():
        found.add(item, columns[name])


def named_features(manifest: Manifest, asked: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the features that are asked for, else those that the model was fitted on; None where neither names any.

    Raises
    ------
    MissingColumns
        They are more or fewer than the model takes.
    """
    takes, named = manifest.n_features, tuple(asked) if asked else manifest.feature_names
    if named is not None and takes not in (None, len(named)):
        raise MissingColumns(f"model {manifest.ref} takes {takes} features, {len(named)} are named")
    return named


def choose_features(
    manifest: Manifest, asked: Sequence[str] | None, schema: pa.Schema, *, keep: str = "all"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns to score, in the model's order, and what the plan should warn of.

    They are those asked for, else those that the model was fitted on. A model without names takes the numeric columns
    in the order of the input (integers, floats, decimals, booleans) where there are as many as it takes; of those that
    `keep` names it is assumed that they are carried over alone, unless only with them their number fits.

    Raises
    ------
    MissingColumns
        Their number is not the model's, so that their order says nothing.
    """
    takes, named = manifest.n_features, named_features(manifest, asked)
    if named is not None:
        return named, ()
    names = tuple(field.name for field in schema if _is_numeric(field.type))
    kept = kept_names(keep)
    for features in (tuple(name for name in names if name not in kept), names):
        if features and len(features) == takes:
            in_order = ", ".join(map(repr, features))
            return features, (f"{manifest.ref} was fitted without column names, and takes {in_order}, in this order",)
    told = "" if takes is None else f" and takes {takes}"
    raise MissingColumns(
        f"model {manifest.ref} was fitted without column names{told}; the input has {len(names)} numeric columns"
        f"{': ' if names else ''}{_listed(names)}: name the features with --features a,b,c"
    )


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column holds lists or records."""
    return bool(pa.types.is_nested(kind))


def as_numbers(reads: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Return the schema with some columns read as numbers."""
    wanted = set(names)
    return pa.schema([f.with_type(pa.float64()) if f.name in wanted else f for f in reads])


def rows_with_texts(batch: pa.RecordBatch, names: Sequence[str], most: int) -> pa.Array:
    """Numbers of the first rows of a batch with a text that is no number in one of some columns of texts."""
    found = pa.array([False] * batch.num_rows)
    for name in names:
        if pa.types.is_string(batch.schema.field(name).type):
            text = pc.and_(
                pc.is_valid(batch.column(name)), pc.invert(pc.fill_null(is_number(batch.column(name)), True))
            )
            found = pc.or_(found, text)
    return pc.indices_nonzero(found)[:most]


def is_number(column: pa.Array) -> pa.Array:
    """Return whether each text is a number, null for none."""
    return pc.match_substring_regex(column, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def _first(surveyed: Sequence[Surveyed]) -> Surveyed | None:
    return next((item for item in surveyed if len(item.schema)), None)


def _kept(keep: str, schema: pa.Schema, features: Sequence[str]) -> tuple[str, ...]:
    if keep == "all":
        scored = set(features)
        return tuple(dict.fromkeys(f.name for f in schema if f.name not in scored and not is_nested(f.type)))
    return kept_names(keep)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the one type of texts for all that Arrow has."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _merged(kinds: Sequence[pa.DataType], *, kept: bool) -> pa.DataType:
    """Find the type that a column of text is read as: of a feature, numbers are float64, as arithmetic has them."""
    found = {kind for kind in kinds if not pa.types.is_null(kind)}
    if not found:
        return pa.string() if kept else pa.float64()
    if found <= {pa.int64(), pa.float64()}:
        return pa.int64() if kept and found == {pa.int64()} else pa.float64()
    return found.pop() if len(found) == 1 else pa.string()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def check_partition(spec: JobSpec, schema: pa.Schema, keep: Sequence[str]) -> None:
    """Refuse to part results by what they do not have, or what makes no folders; raises `InvalidRequest`."""
    column = spec.partition_by
    if column is None:
        return
    if column not in keep:
        raise InvalidRequest(
            f"results cannot be parted by {column!r}, which is not among the columns that are kept "
            f"({', '.join(map(repr, keep[:20])) or 'none'}): name it with --keep"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    fits = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_integer,
        pa.types.is_boolean,
        pa.types.is_temporal,
        pa.types.is_null,
    )
    if not any(is_kind(kind) for is_kind in fits):
        raise InvalidRequest(
            f"results cannot be parted by {column!r}, which is {kind}: name a column of text, whole numbers, booleans, "
            "dates or times"
        )
