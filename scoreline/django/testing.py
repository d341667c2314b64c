r"""Runs jobs inside the tests of a Django project, without Redis, workers or a bucket.

::

    from django.test import TestCase
    from scoreline.django.testing import EagerScoring

    class PredictionTests(EagerScoring, TestCase):
        def test_a_prediction_is_scored(self):
            self.scoreline.models.publish("churn", model, alias="champion")
            uri = self.scoreline.put("in/a.csv", "age\n41\n")
            prediction = Prediction.submit("churn@champion", uri, customer=self.customer)
            self.assertEqual(prediction.state, "succeeded")

Needs `ml-requirements.txt`, as `scoreline.testing` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from django.db import connections, transaction

from scoreline.tasks.django.scoring import sending
from scoreline.testing import EagerClient, eager

__all__ = ["EagerScoring", "scoring"]


class EagerScoring:
    """A mixin for ``django.test.TestCase``: jobs end as soon as they are submitted.

    If the code under test submits a job inside ``transaction.atomic()`` or a request with ``ATOMIC_REQUESTS``, wrap the
    call in ``self.captureOnCommitCallbacks(execute=True)``, as for everything that waits for a commit.
    """

    scoreline: EagerClient
    """A client on a temporary folder, with `models`, `put`, `results`, `run` and `notifications`."""
    scoreline_settings: ClassVar[Mapping[str, str]] = {}
    """Settings, under the names of their environment variables."""

    def setUp(self) -> None:
        """Begin with an empty folder."""
        super().setUp()  # type: ignore[misc]  # of the test case
        block = scoring(settings=self.scoreline_settings)
        self.scoreline = self.enterContext(block)  # type: ignore[attr-defined]


@contextlib.contextmanager
def scoring(
    folder: Path | str | None = None, *, run: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[EagerClient]:
    """Run all jobs in this process while the block runs (see `scoreline.testing.eager`).

    The transaction that a ``TestCase`` opens for a test is never committed. A job that the test submits outside of any
    other transaction is therefore submitted at once, as it would be in production.
    """
    depths = {name: len(connections[name].savepoint_ids) for name in connections if connections[name].in_atomic_block}

    def after_commit(row: Any, using: str) -> None:
        # The outermost transaction of a test has no savepoint, and `Scoring.submit` opens one
        if len(connections[using].savepoint_ids) - 1 == depths.get(using):
            sending.send_first(row)
        else:
            transaction.on_commit(lambda: sending.send_first(row), using=using)

    before = sending.after_commit
    sending.after_commit = after_commit
    try:
        with eager(folder, run=run, settings=settings) as client:
            yield client
    finally:
        sending.after_commit = before
