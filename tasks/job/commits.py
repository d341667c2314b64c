"""Reads the objects of a committed part: its results, and the rejected rows that the receipt of the results names.

A part is committed when the object with its results exists. The receipt of this object names the object with the
rejected rows. Other objects in ``_rejected/`` were left behind by attempts that did not commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from scoreline.storage.errors import ObjectNotFound, ScoringError
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.wording import plural
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The objects of a committed part."""

    info: ObjectInfo
    """The object with the results."""
    receipt: Receipt
    rejects: ObjectInfo | None = None
    """The object with the rejected rows; None if no row was rejected, or if that object is missing."""
    fault: str = ""
    """Reason why the commit does not account for every row of the part; empty if the commit does. If there is a reason,
    the part is scored again."""


def read_commit(layout: ResultsLayout, plan_sha256: str, number: int, rows: int) -> Commit | None:
    """Return the objects of a committed part; None if the part is not committed yet.

    Parameters
    ----------
    rows : int
        Number of rows in the part according to the plan.

    Raises
    ------
    ScoringError
        The results were written for another part, by another job or by another program.
    """
    key = layout.part(number)
    try:
        info = layout.store.head(key)
    except ObjectNotFound:
        return None
    receipt = Receipt.from_metadata(info.metadata, layout.uri(key)).check(plan_sha256, number, layout.uri(key))
    if receipt.rows + receipt.rejected != rows:
        fault = (
            f"{layout.uri(key)} does not add up: {plural(rows, 'row')} planned, {receipt.rows} scored, "
            f"{receipt.rejected} rejected"
        )
        return Commit(info=info, receipt=receipt, fault=fault)
    rejects = find_rejects(layout, receipt)
    if receipt.rejected and rejects is None:
        fault = f"the {plural(receipt.rejected, 'row')} that {layout.uri(key)} names as rejected cannot be found"
        return Commit(info=info, receipt=receipt, fault=fault)
    return Commit(info=info, receipt=receipt, rejects=rejects)


def find_rejects(layout: ResultsLayout, receipt: Receipt) -> ObjectInfo | None:
    """Return the object with the rejected rows of a committed part; None if there is none.

    In results of earlier releases, the receipt does not name the object with the rejected rows. This object is then
    found under one of the keys of earlier releases, and its own receipt must match the part and the numbers of rows.
    """
    if not receipt.rejected:
        return None
    digest = receipt.rejects_sha256
    for key in [layout.rejected_part(receipt.part, digest)] if digest else layout.former_rejected_parts(receipt.part):
        try:
            info = layout.store.head(key)
            own = Receipt.from_metadata(info.metadata, layout.uri(key))
        except (ObjectNotFound, ScoringError):
            continue
        if own.rejects_of(receipt):
            return info
    return None
