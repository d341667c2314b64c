"""Writes results into a model of the application by Django, where workers cannot: SQLite, MySQL and other databases."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from django.db import connections, models, transaction

from scoreline.storage.errors import InvalidRequest, require_extra
from scoreline.tasks.client import Client
from scoreline.tasks.django.querysets.target import Target, target_of

BATCH_ROWS = 500


def load_results(
    client: Client,
    job_id: str,
    rows: type[models.Model],
    *,
    into: type[models.Model],
    key: str = "pk",
    into_key: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> int:
    """Insert or change a row of a model for each row of the accepted results of a job, in one transaction.

    The same call again changes nothing. Rows whose input was rejected stay as they are. This function needs pyarrow,
    which is in ml-requirements.txt.

    Parameters
    ----------
    rows : type
        The model of the scored rows.
    into, key, into_key, fields
        As for `submit_queryset`.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    InvalidRequest
        The job is not accepted, or its results lack a column.
    PackageMissing
        pyarrow is not installed.
    """
    with require_extra("reading results"):
        from scoreline.tasks.quality.results.reading import open_results
    key_column = rows._meta.pk.name if key == "pk" else key
    target = target_of(into, rows, into_key=into_key, key_column=key_column, fields=fields)
    wanted = [target.key_column, *target.fields.values()]
    count = 0
    with transaction.atomic(using=target.using):
        for batch in open_results(client.buckets, job_id):
            if missing := [name for name in wanted if name not in batch.schema.names]:
                raise InvalidRequest(
                    f"the results of job {job_id} have no column {missing[0]!r}; they have "
                    f"{', '.join(batch.schema.names)}: name others with fields, or keep the column"
                )
            found = iter(batch.select(wanted).to_pylist())
            while some := list(islice(found, BATCH_ROWS)):
                _upsert(target, some)
                count += len(some)
    return count


def _upsert(target: Target, rows: list[dict[str, Any]]) -> None:
    names = {name: target.model._meta.get_field(name).attname for name in target.fields}
    made = [
        target.model(
            **{target.key.attname: row[target.key_column]},
            **{names[name]: row[column] for name, column in target.fields.items()},
        )
        for row in rows
    ]
    by_key = connections[target.using].features.supports_update_conflicts_with_target
    target.model._base_manager.using(target.using).bulk_create(
        made,
        update_conflicts=True,
        update_fields=list(target.fields),
        **({"unique_fields": [target.key.name]} if by_key else {}),  # MySQL takes any unique index
    )
