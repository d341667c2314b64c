"""Decides which columns of an input are scored or kept, and the type of each. This module does no I/O."""

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
from scoreline.tasks.inputs.hive_partitions import folder_types, folder_values
from scoreline.tasks.inputs.listing import SurveyedObject
from scoreline.tasks.job.spec import JobSpec, kept_names

_TEXT_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
"""Types that text can be read as."""
_NAMES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ResolvedColumns:
    """The columns that each part reads."""

    reads: pa.Schema
    """Schema of the columns that are read: features, then kept columns."""
    keep: tuple[str, ...]
    """The columns that are copied into the results."""
    folders: tuple[str, ...]
    """The columns that come from folder names. No object contains them."""
    zero_padded: tuple[str, ...]
    """Features in text that contain only numbers, some with leading zeros. They are read as numbers, as in pandas."""
    mixed: tuple[str, ...]
    """Features in text that are numbers in some rows but not in others. The model decides whether they are texts."""


def available_columns(surveyed: Sequence[SurveyedObject]) -> pa.Schema:
    """Return the columns of the first object that has any, and the columns from its folder names."""
    first = _first(surveyed)
    if first is None:
        return pa.schema([])
    types = folder_types(item.file.key for item in surveyed)
    own = set(first.schema.names)
    more = [pa.field(name, types[name]) for name in folder_values(first.file.key) if name not in own]
    return pa.schema([*first.schema, *more])


def resolve_columns(
    surveyed: Sequence[SurveyedObject],
    features: Sequence[str],
    keep: str,
    text_types: Mapping[str, str] | None = None,
) -> ResolvedColumns:
    """Find the features and kept columns in every object, and the type to read each as.

    Parameters
    ----------
    features : sequence of str
        Names of the features, in the model's order.
    keep : str
        ``all`` for every column of the first object that is neither a feature nor nested; ``none``; or column names.
    text_types : mapping of str to str, optional
        Types of columns in CSV and JSON Lines, as in `ReadOptions.types`. The others are guessed.

    Raises
    ------
    MissingColumns
        An object lacks some columns; the message names the object and all missing columns.
    UnreadableInput
        An object has a column twice, or with an incompatible type; the message names the object and the column.
    """
    kept = _kept_columns(keep, available_columns(surveyed), features)
    names = tuple(dict.fromkeys((*features, *kept)))
    own = {name for item in surveyed for name in item.schema.names}
    types_in_folders = folder_types(item.file.key for item in surveyed)
    folders = tuple(name for name in names if name in types_in_folders and name not in own)
    scored = set(features)
    columns = {name: _ColumnTypes(name=name, kept=name not in scored) for name in names if name not in folders}
    for item in surveyed:
        if len(item.schema):
            _add_object(item, columns, folders)
    text_types = text_types or {}
    in_text = {name for item in surveyed if item.text for name in item.schema.names} if text_types else set()
    if unknown := [name for name in text_types if name not in in_text]:
        raise MissingColumns(
            f"--types names {_format_names(unknown)}, which no CSV or JSON Lines object has: correct the name, or "
            "leave it out"
        )
    types = {name: types_in_folders[name] for name in folders} | {
        name: ARROW_TYPES[text_types[name]] if name in text_types else column.resolve()
        for name, column in columns.items()
    }
    for name in features:
        if _is_nested(types[name]):
            raise UnreadableInput(
                f"the feature {name!r} is {types[name]}, and estimators take numbers, texts, booleans or times: choose "
                "other columns with --features"
            )
    guessed = {name: column for name, column in columns.items() if name not in text_types}
    return ResolvedColumns(
        reads=pa.schema([pa.field(n, types[n], metadata={"feature": "1"} if n in scored else None) for n in names]),
        keep=kept,
        folders=folders,
        zero_padded=tuple(name for name, column in guessed.items() if column.zero_padded),
        mixed=tuple(name for name in features if name in guessed and guessed[name].is_mixed()),
    )


@dataclass(kw_only=True)
class _ColumnTypes:
    """The types of one column in all objects."""

    name: str
    kept: bool
    """Whether the column is only copied into the results, not scored."""
    typed: pa.DataType | None = None
    """Type in the first object whose format has types."""
    typed_in: str = ""
    """URI of that object."""
    guesses: dict[pa.DataType, str] = field(default_factory=dict)
    """Types guessed from text, each with the URI of the first object in which it was guessed."""
    mixed: bool = False
    zero_padded: bool = False

    def add(self, item: SurveyedObject, column: pa.Field) -> None:
        """Add the column of one object."""
        if item.text:
            numbers = float((column.metadata or {}).get(b"numbers", 0))
            zero_padded = numbers == 1 and not self.kept
            self.guesses.setdefault(pa.float64() if zero_padded else column.type, item.uri)
            self.zero_padded = self.zero_padded or zero_padded
            self.mixed = self.mixed or 0 < numbers < 1
        elif self.typed is None:
            self.typed, self.typed_in = column.type, item.uri
        elif self.kept and column.type != self.typed and _value_type(column.type) != _value_type(self.typed):
            raise UnreadableInput(
                f"{item.uri} has {self.name!r} as {column.type}, but {self.typed_in} has it as {self.typed}: give it "
                "one type, or leave it out with --keep"
            )

    def resolve(self) -> pa.DataType:
        """Return the type to read the column as: its type in typed formats, or else the type that fits all text."""
        if self.typed is None:
            return _common_type(list(self.guesses), kept=self.kept)
        if self.guesses and _value_type(self.typed) not in _TEXT_TYPES:
            raise UnreadableInput(
                f"{next(iter(self.guesses.values()))} has {self.name!r} as text, but {self.typed_in} has it as "
                f"{self.typed}, which text cannot be read as: give it one type, or submit the objects as two jobs"
            )
        return _value_type(self.typed) if self.guesses else self.typed

    def is_mixed(self) -> bool:
        """Return whether the column occurs only in text, with numbers in some rows or objects but not in others."""
        numbers = [kind in (pa.int64(), pa.float64()) for kind in self.guesses if not pa.types.is_null(kind)]
        return self.typed is None and (self.mixed or (any(numbers) and not all(numbers)))


def _add_object(item: SurveyedObject, columns: Mapping[str, _ColumnTypes], folders: Sequence[str]) -> None:
    """Add the columns of one object, which must have each of `columns` and `folders` exactly once."""
    in_folders = folder_values(item.file.key)
    fields: dict[str, pa.Field] = {}
    for column in item.schema:
        if column.name in fields and column.name in columns:
            raise UnreadableInput(f"{item.uri} has the column {column.name!r} twice: rename one of them")
        fields[column.name] = column
    missing = [name for name in columns if name not in fields] + [name for name in folders if name not in in_folders]
    if missing:
        has = [*item.schema.names, *(name for name in in_folders if name in folders)]
        marks = [mark for mark in (";", "\t", "|", ",") if item.text and len(has) == 1 and mark in has[0]]
        hint = (
            f"is the delimiter {marks[0]!r}? Say so with --delimiter"
            if marks
            else "correct the object, or choose other columns with --features and --keep"
        )
        raise MissingColumns(f"{item.uri} lacks {_format_names(missing)}; it has {_format_names(has)}: {hint}")
    for name, column_types in columns.items():
        column_types.add(item, fields[name])


def named_features(manifest: Manifest, requested: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the features that the job requests, or else those that the model was fitted on; None if there are neither.

    Raises
    ------
    MissingColumns
        The number of features is not the number that the model expects.
    """
    takes, named = manifest.n_features, tuple(requested) if requested else manifest.feature_names
    if named is not None and takes not in (None, len(named)):
        raise MissingColumns(
            f"model {manifest.ref} takes {takes} feature{'' if takes == 1 else 's'}, but --features names "
            f"{len(named)}: name each of them, in the model's order"
        )
    return named


def choose_features(
    manifest: Manifest, requested: Sequence[str] | None, schema: pa.Schema, *, keep: str = "all"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns to score, in the model's order, and warnings for the plan.

    The features are those requested, or else those that the model was fitted on. For a model without column names, they
    are the numeric columns (integers, floats, decimals, booleans) in the order of the input, if there are as many as
    the model expects. Columns named in `keep` do not count, unless the number is right only with them.

    Raises
    ------
    MissingColumns
        The number of columns is not the number that the model expects, so that the features cannot be identified by
        their order.
    """
    takes, named = manifest.n_features, named_features(manifest, requested)
    if named is not None:
        return named, ()
    names = tuple(field.name for field in schema if _is_numeric(field.type))
    kept = kept_names(keep)
    for features in (tuple(name for name in names if name not in kept), names):
        if features and len(features) == takes:
            in_order = ", ".join(map(repr, features))
            return features, (f"{manifest.ref} was fitted without column names, and takes {in_order}, in this order",)
    count = "" if takes is None else f" and takes {takes} feature{'' if takes == 1 else 's'}"
    shown = f" ({_format_names(names)})" if names else ""
    raise MissingColumns(
        f"model {manifest.ref} was fitted without column names{count}; the input has {len(names)} numeric columns"
        f"{shown}: name the features with --features a,b,c"
    )


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def read_as_numbers(reads: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Return the schema with the named columns read as float64."""
    numeric = set(names)
    return pa.schema([f.with_type(pa.float64()) if f.name in numeric else f for f in reads])


def rows_with_words(batch: pa.RecordBatch, names: Sequence[str], most: int) -> pa.Array:
    """Return the numbers of the first `most` rows in which any of the named columns has a text that is not a number."""
    words = pa.array([False] * batch.num_rows)
    for name in names:
        column = batch.column(name)
        if pa.types.is_string(column.type):
            words = pc.or_(words, pc.and_(pc.is_valid(column), pc.invert(pc.fill_null(_is_number(column), True))))
    return pc.indices_nonzero(words)[:most]


def _is_number(column: pa.Array) -> pa.Array:
    """Return whether each text is a number; null where the text is null."""
    return pc.match_substring_regex(column, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def _first(surveyed: Sequence[SurveyedObject]) -> SurveyedObject | None:
    return next((item for item in surveyed if len(item.schema)), None)


def _kept_columns(keep: str, schema: pa.Schema, features: Sequence[str]) -> tuple[str, ...]:
    if keep == "all":
        scored = set(features)
        return tuple(dict.fromkeys(f.name for f in schema if f.name not in scored and not _is_nested(f.type)))
    return kept_names(keep)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return ``string`` for each of Arrow's string types, and any other type unchanged."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _common_type(guesses: Sequence[pa.DataType], *, kept: bool) -> pa.DataType:
    """Return the type that fits all guesses. Numbers in a feature become float64, because models compute in float64."""
    types = {kind for kind in guesses if not pa.types.is_null(kind)}
    if not types:
        return pa.string() if kept else pa.float64()
    if types <= {pa.int64(), pa.float64()}:
        return pa.int64() if kept and types == {pa.int64()} else pa.float64()
    return types.pop() if len(types) == 1 else pa.string()


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + more


def check_partition(spec: JobSpec, schema: pa.Schema, keep: Sequence[str]) -> None:
    """Check that the results can be partitioned as the job requests.

    Raises
    ------
    InvalidRequest
        The results do not have the column, or its values cannot be used as folder names.
    """
    column = spec.partition_by
    if column is None:
        return
    if column not in keep:
        raise InvalidRequest(
            f"results cannot be partitioned by {column!r}, which is not among the kept columns "
            f"({_format_names(keep) or 'none'}): name it with --keep"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    allowed = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_integer,
        pa.types.is_boolean,
        pa.types.is_temporal,
        pa.types.is_null,
    )
    if not any(is_kind(kind) for is_kind in allowed):
        raise InvalidRequest(
            f"results cannot be partitioned by {column!r}, which is {kind}: choose a column of texts, integers, "
            "booleans, dates or times"
        )
