from __future__ import annotations

import pickle

import pytest

from scoreline.storage import errors


def leaves(kind: type[errors.ScorelineError]) -> list[type[errors.ScorelineError]]:
    return [kind] + [leaf for sub in kind.__subclasses__() for leaf in leaves(sub)]


@pytest.mark.parametrize("kind", leaves(errors.ScorelineError))
def test_errors_survive_pickling_and_are_part_of_the_documented_tree(kind: type[errors.ScorelineError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what happened")))
    assert (type(copy), str(copy)) == (kind, "what happened")
    if kind.__module__ == "scoreline.storage.errors":
        assert kind.__name__ in str(errors.__doc__)


def test_only_outages_and_steps_that_must_wait_are_transient() -> None:
    transient = {kind.__name__ for kind in leaves(errors.ScorelineError) if kind.transient}
    assert transient == {
        "StoreUnavailable",
        "DatabaseUnavailable",
        "LedgerError",
        "LedgerFenced",
        "LedgerLost",
        "LedgerCorrupt",
        "LedgerUnavailable",
        "QueueUnavailable",
        "StepUnfinished",
        "PartInterrupted",
        "PlanPending",
        "PlatformUnavailable",
        "WebhookUnavailable",
    }
