"""Says which fields of a model get which columns of the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models, router

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.submit_options import SubmitOptions


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model whose rows are inserted or changed by a unique field."""

    model: type[models.Model]
    key: Any
    """The unique field that identifies a row."""
    key_column: str
    """The column of the results with its values."""
    fields: Mapping[str, str]
    """The column of the results for each other field, by the name of the field's attribute."""
    using: str
    """The alias of the database."""

    @property
    def is_loaded_by_workers(self) -> bool:
        """Whether workers can load the results, because the model is in a database of PostgreSQL."""
        return bool(connections[self.using].vendor == "postgresql")

    def load_options(self, database: str | None) -> SubmitOptions:
        """Return the options of a job whose results workers load into the table of the model."""
        table = self.model._meta.db_table.replace('"', "")
        columns = {self.key.column: self.key_column}
        columns |= {self.model._meta.get_field(name).column: source for name, source in self.fields.items()}
        options = SubmitOptions(
            into=table if "." in table else f"public.{table}",
            key=[self.key.column],
            into_columns=[f"{column}={source}" for column, source in columns.items()],
        )
        if database is not None:
            options["database"] = database
        return options


def target_of(
    into: type[models.Model],
    rows: type[models.Model],
    *,
    into_key: str | None,
    key_column: str,
    fields: Mapping[str, str] | None,
) -> Target:
    """Return the target of a model of the application.

    Parameters
    ----------
    rows : type
        The model of the scored rows.
    into_key : str, optional
        The unique field that identifies a row; by default, the only unique relation to `rows`.
    fields : mapping of str to str, optional
        The column of the results for each field; by default, ``prediction``.

    Raises
    ------
    InvalidRequest
        A field does not exist, or does not identify a row.
    """
    name = into.__name__
    if into_key is None:
        found = [field for field in into._meta.concrete_fields if field.is_relation and field.unique]
        found = [field for field in found if field.related_model._meta.concrete_model is rows._meta.concrete_model]
        if len(found) != 1:
            raise InvalidRequest(
                f"{name} has no single unique relation to {rows.__name__}: name the field that identifies a row, "
                "into_key=..."
            )
        key = found[0]
    else:
        key = _field(into, into_key)
    if not key.unique:
        raise InvalidRequest(f"{name}.{key.name} is not unique, so that rows could be there twice")
    chosen = dict(fields if fields is not None else {"prediction": "prediction"})
    if not chosen:
        raise InvalidRequest(f"fields names no field of {name}: name at least one with its column")
    for field in chosen:
        _field(into, field)
    return Target(model=into, key=key, key_column=key_column, fields=chosen, using=router.db_for_write(into))


def _field(into: type[models.Model], name: str) -> Any:
    try:
        found = into._meta.get_field(into._meta.pk.name if name == "pk" else name)
    except FieldDoesNotExist:
        found = None
    if found is None or not getattr(found, "concrete", False):
        raise InvalidRequest(f"{into.__name__} has no field {name!r} with a column")
    return found
