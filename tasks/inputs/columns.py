"""Decides which columns of an input are scored or kept, and the type of each. This module does no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import (
    InvalidRequest,
    MissingColumns,
    UnreadableInput,
)
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.tables.type_inference import ARROW_TYPES, PADDED
from scoreline.tasks.inputs.column_types import ColumnTypes
from scoreline.tasks.inputs.hive_partitions import folder_types, folder_values
from scoreline.tasks.inputs.listing import SurveyedObject
from scoreline.tasks.job.spec import JobSpec, kept_names
from scoreline.tasks.scoring.settled_types import kept_column, settled_feature

_NAMES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ResolvedColumns:
    """The columns that each part reads."""

    reads: pa.Schema
    """Schema of the columns to read (see `scoreline.tasks.scoring.settled_types`): features, then kept columns."""
    keep: tuple[str, ...]
    """The columns that are copied into the results."""
    folders: tuple[str, ...]
    """The columns that come from folder names. No object contains them."""
    zero_padded: tuple[str, ...]
    """Features in text that contain only numbers, some with leading zeros. These features are read as numbers, as in
    pandas."""
    mixed: Mapping[str, pa.DataType]
    """Features in text that are numbers in some rows but not in others, each with the type of its numbers. Whether such
    a feature is read as text depends on the model."""


def available_columns(surveyed: Sequence[SurveyedObject]) -> pa.Schema:
    """Return the columns of the first object with columns, of its folder names, and of all JSON Lines objects.

    A line of JSON may leave out a key. Therefore every key in any JSON Lines object counts as a column.
    """
    first = _first(surveyed)
    if first is None:
        return pa.schema([])
    types = folder_types(item.file.key for item in surveyed)
    own = set(first.schema.names)
    more = [pa.field(name, types[name]) for name in folder_values(first.file.key) if name not in own]
    if first.has_optional_columns:
        own |= set(types)
        for item in surveyed:
            more += [field for field in item.schema if field.name not in own and item.has_optional_columns]
            own |= set(item.schema.names)
    return pa.schema([*first.schema, *more])


def warn_of_other_columns(surveyed: Sequence[SurveyedObject], keep: str) -> tuple[str, ...]:
    """Return a warning for the plan if later objects have columns that ``keep="all"`` does not copy to the results."""
    first = _first(surveyed)
    if first is None or keep != "all":
        return ()
    known = set(available_columns(surveyed).names)
    for item in surveyed:
        if others := [name for name in item.schema.names if name not in known]:
            return (
                f"{item.uri} has {_format_names(others)}, which {first.uri} does not have: not copied to the results",
            )
    return ()


def resolve_columns(
    surveyed: Sequence[SurveyedObject],
    features: Sequence[str],
    keep: str,
    text_types: Mapping[str, str] | None = None,
    words: Collection[str] = (),
) -> ResolvedColumns:
    """Find the features and kept columns in every object, and choose the type of each column.

    Parameters
    ----------
    features : sequence of str
        Names of the features, in the model's order.
    keep : str
        ``all`` for every column of the first object that is neither a feature nor nested; ``none``; or column names.
    text_types : mapping of str to str, optional
        Types of columns in CSV and JSON Lines, as in `ReadOptions.types`. All other types are inferred.
    words : collection of str
        Features that the model was fitted on as texts. In CSV, their values are read as texts, even if all of them look
        like numbers.

    Raises
    ------
    MissingColumns
        An object lacks some columns; the message names the object and all missing columns.
    UnreadableInput
        An object has a column twice, or with an incompatible type; the message names the object and the column.
    """
    kept = _kept_columns(keep, available_columns(surveyed), features)
    names = tuple(dict.fromkeys((*features, *kept)))
    types_in_folders = folder_types(item.file.key for item in surveyed)
    own = {name for item in surveyed for name in item.schema.names} if types_in_folders else set()
    folders = tuple(name for name in names if name in types_in_folders and name not in own)
    scored = set(features)
    columns = {name: ColumnTypes(name=name, kept=name not in scored) for name in names if name not in folders}
    added: set[tuple[int, bool, bool, bool, tuple[str, ...]]] = set()
    for item in surveyed:
        in_folders = tuple(folder_values(item.file.key))
        kind = (id(item.schema), item.text, item.has_optional_columns, bool(item.file.spans), in_folders)
        if len(item.schema) and kind not in added:  # most objects of an input have the same columns
            _add_object(item, columns, folders)
            added.add(kind)
    if lost := [name for name, column in columns.items() if not column.is_found]:
        raise MissingColumns(
            f"no line of the input has the keys {_format_names(lost)}: correct the objects, or choose other columns "
            "with --features and --keep"
        )
    text_types = text_types or {}
    in_text = {name for item in surveyed if item.text for name in item.schema.names} if text_types else set()
    if unknown := [name for name in text_types if name not in in_text]:
        raise MissingColumns(
            f"--types names {_format_names(unknown)}, which no CSV or JSON Lines object has: correct the name, or "
            "leave it out"
        )
    types = {name: types_in_folders[name] for name in folders} | {
        name: ARROW_TYPES[text_types[name]] if name in text_types else column.resolve(is_text=name in words)
        for name, column in columns.items()
    }
    for name in features:
        if pa.types.is_nested(types[name]):
            raise UnreadableInput(
                f"the feature {name!r} is {types[name]}, and estimators take numbers, texts, booleans or times: choose "
                "other columns with --features"
            )
    guessed = {name: column for name, column in columns.items() if name not in text_types}
    missing = {name: column.missing for name, column in columns.items()}
    missing |= {name: _is_sometimes_missing(name, surveyed) for name in folders}
    carried = {name: column.carried(types[name]) for name, column in guessed.items() if column.kept}
    return ResolvedColumns(
        reads=pa.schema(
            [
                settled_feature(name, types[name], missing=missing[name])
                if name in scored
                else kept_column(name, types[name], carried.get(name, b""))
                for name in names
            ]
        ),
        keep=kept,
        folders=folders,
        zero_padded=tuple(
            name for name, column in guessed.items() if column.zero_padded and types[name] in (pa.int64(), pa.float64())
        ),
        mixed={
            name: guessed[name].number_type
            for name in features
            if name in guessed and name not in words and guessed[name].is_mixed
        },
    )


def _add_object(item: SurveyedObject, columns: Mapping[str, ColumnTypes], folders: Sequence[str]) -> None:
    """Add the columns of one object, which must have each of `columns` and `folders` exactly once."""
    in_folders = folder_values(item.file.key)
    fields: dict[str, pa.Field] = {}
    for column in item.schema:
        if column.name in fields and column.name in columns:
            hint = ", or leave it out with --keep" if columns[column.name].kept else ""
            raise UnreadableInput(f"{item.uri} has the column {column.name!r} twice: rename one of them{hint}")
        fields[column.name] = column
    missing = [name for name in columns if name not in fields] + [name for name in folders if name not in in_folders]
    if item.has_optional_columns:
        for name in missing:
            if name in columns:
                columns[name].missing = True
        missing = [name for name in missing if name not in columns]
    if missing:
        has = [*item.schema.names, *(name for name in in_folders if name in folders)]
        marks = [mark for mark in (";", "\t", "|", ",") if item.text and len(has) == 1 and mark in has[0]]
        hint = (
            f"is the delimiter {marks[0]!r}? Say so with --delimiter"
            if marks
            else _ways_out([columns[name].kept for name in missing if name in columns])
        )
        raise MissingColumns(f"{item.uri} lacks {_format_names(missing)}; it has {_format_names(has)}: {hint}")
    for name, column_types in columns.items():
        if name in fields:
            column_types.add(item, fields[name])


def _ways_out(kept: Sequence[bool]) -> str:
    """Return advice on missing columns. `kept` has True for each kept column, and False for each feature."""
    if kept and all(kept):
        return "correct the object, or leave the column out with --keep"
    return "correct the object, or, for a model that was fitted without names, choose other columns with --features"


def named_features(manifest: Manifest, requested: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the features that the job requests, or else those that the model was fitted on; None if there are neither.

    Raises
    ------
    MissingColumns
        The job requests fewer or more features than the model expects; both cases raise this error.
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

    The features are those that the job requests, or else those that the model was fitted on. If the model was fitted
    without column names, the features are the numeric columns (integers, floats, decimals, booleans), in the order of
    the input. Their number must be the number that the model expects. Columns named in `keep` count as features only if
    the number is wrong without these columns.

    Raises
    ------
    MissingColumns
        The number of numeric columns is smaller or larger than the number that the model expects. The features can then
        not be identified by their order.
    """
    takes, named = manifest.n_features, named_features(manifest, requested)
    if named is not None:
        return named, ()
    names = tuple(f.name for f in schema if _is_numeric(f.type) and PADDED not in (f.metadata or {}))
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


def read_as_numbers(reads: pa.Schema, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema with a number type, taken from `types`, for each column that is a key of `types`."""
    return pa.schema([f.with_type(types[f.name]) if f.name in types else f for f in reads])


def rows_with_words(batch: pa.RecordBatch, names: Collection[str], most: int) -> pa.Array:
    """Return the numbers of the first `most` rows in which a column in `names` has a text that is not a number."""
    words = pa.array([False] * batch.num_rows, pa.bool_())  # pa.array([]) has no type unless one is given
    for name in names:
        column = batch.column(name)
        if pa.types.is_string(column.type):
            words = pc.or_(words, pc.and_(pc.is_valid(column), pc.invert(pc.fill_null(_is_number(column), True))))
    return pc.indices_nonzero(words)[:most]


def _is_number(column: pa.Array) -> pa.Array:
    """Return for each text whether it is a number; null for a null."""
    return pc.match_substring_regex(column, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def _first(surveyed: Sequence[SurveyedObject]) -> SurveyedObject | None:
    return next((item for item in surveyed if len(item.schema)), None)


def _kept_columns(keep: str, schema: pa.Schema, features: Sequence[str]) -> tuple[str, ...]:
    if keep == "all":
        scored = set(features)
        return tuple(dict.fromkeys(f.name for f in schema if f.name not in scored and not pa.types.is_nested(f.type)))
    return kept_names(keep)


def _is_sometimes_missing(name: str, surveyed: Sequence[SurveyedObject]) -> bool:
    """Return whether a column that comes from folder names lacks a value for some objects."""
    return any(folder_values(item.file.key).get(name) is None for item in surveyed)


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + more


def check_segment(spec: JobSpec, schema: pa.Schema, keep: Sequence[str]) -> None:
    """Check that rows can be counted by the segments that the job requests.

    Raises
    ------
    MissingColumns
        The segment column is not kept.
    InvalidRequest
        The values of the segment column have no text.
    """
    column = spec.segment
    if column is None:
        return
    if column not in keep:
        raise MissingColumns(
            f"rows cannot be counted by {column!r}, which is not among the kept columns "
            f"({_format_names(keep) or 'none'}): name it with --keep"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidRequest(f"rows cannot be counted by {column!r}, a column of {kind}: name one of texts or numbers")


def check_partition(spec: JobSpec, schema: pa.Schema, keep: Sequence[str]) -> None:
    """Check that the results can be partitioned as the job requests.

    Raises
    ------
    MissingColumns
        The results do not have the partition column.
    InvalidRequest
        The values of the partition column cannot be used as folder names.
    """
    column = spec.partition_by
    if column is None:
        return
    if column not in keep:
        raise MissingColumns(
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
