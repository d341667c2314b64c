"""Every error that Scoreline raises on purpose.

::

    ScorelineError
    ├── InvalidSettings            the environment is wrong
    ├── PackageMissing             what was asked for needs a package that is not installed
    ├── InvalidRequest             what the user asked for cannot be done as asked
    │   ├── InvalidURI
    │   ├── BucketNotAllowed
    │   ├── ModelNotFound
    │   ├── ModelInUse
    │   ├── InputNotFound
    │   ├── JobNotFound
    │   ├── JobConflict
    │   └── NothingToResume
    ├── InputError                 the input cannot be scored
    │   ├── InputChanged
    │   ├── MissingColumns
    │   └── UnreadableInput
    ├── ModelError                 the model cannot be trusted or loaded
    │   ├── ModelCorrupt
    │   ├── ModelUntrusted
    │   └── ModelUnloadable
    ├── ScoringError               an estimator failed on every row or broke its own schema
    │   └── RejectBudgetExceeded
    ├── JobFailed
    ├── DocumentCorrupt
    ├── StoreError                 the object store
    │   ├── ObjectNotFound
    │   ├── PreconditionFailed
    │   ├── AccessDenied
    │   ├── InvalidKey
    │   └── StoreUnavailable       transient
    ├── LedgerError
    │   ├── LedgerFenced           it is of another plan than the one in the bucket
    │   ├── LedgerLost             Redis was emptied
    │   └── LedgerUnavailable      transient
    ├── WebhookRefused             the receiver does not want what it was sent
    ├── WebhookUnavailable         transient
    └── QueueUnavailable           transient
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class ScorelineError(Exception):
    """Scoreline could not do what was asked.

    Every leaf takes one message, so that each survives pickling and JSON.
    """

    transient: bool = False
    """Whether trying again later, unchanged, may help."""


class InvalidSettings(ScorelineError):
    """The environment holds settings that cannot be used; the message names all of them."""

    @classmethod
    def of(cls, faults: Sequence[str]) -> InvalidSettings:
        """One error for all `faults`, in their order."""
        return cls("invalid settings: " + "; ".join(faults))


class PackageMissing(ScorelineError):
    """What was asked for needs a package that is not installed."""


class InvalidRequest(ScorelineError):
    """What was asked for cannot be done as asked."""


class InvalidURI(InvalidRequest):
    """A URI has the wrong form."""


class BucketNotAllowed(InvalidRequest):
    """A URI names a bucket outside ALLOWED_BUCKETS."""


class ModelNotFound(InvalidRequest):
    """No model, version or alias has that name."""


class ModelInUse(InvalidRequest):
    """An alias or a job under way needs the version."""


class InputNotFound(InvalidRequest):
    """The input names no object."""


class JobNotFound(InvalidRequest):
    """No job has that id."""


class JobConflict(InvalidRequest):
    """The job id is taken by a job with another spec."""


class NothingToResume(InvalidRequest):
    """The job is under way, or has all its results."""


class InputError(ScorelineError):
    """The input cannot be scored."""


class InputChanged(InputError):
    """An input object is not the one that was planned any more."""


class MissingColumns(InputError):
    """An input object lacks columns that the model needs."""


class UnreadableInput(InputError):
    """An input object is not what its name says."""


class ModelError(ScorelineError):
    """A model cannot be trusted or loaded."""


class ModelCorrupt(ModelError):
    """Stored bytes of a model differ from what its manifest says."""


class ModelUntrusted(ModelError):
    """A model is not signed by a key that is trusted here."""


class ModelUnloadable(ModelError):
    """A model's bytes are right, yet it cannot be loaded here."""


class ScoringError(ScorelineError):
    """An estimator failed, or broke the output schema that the plan fixed."""


class RejectBudgetExceeded(ScoringError):
    """Raised when more rows cannot be scored than the job may reject."""


class JobFailed(ScorelineError):
    """A job ended without all its results."""


class DocumentCorrupt(ScorelineError):
    """A stored record of a job is not what Scoreline wrote."""


class StoreError(ScorelineError):
    """The object store refused."""


class ObjectNotFound(StoreError):
    """No object has that key."""


class PreconditionFailed(StoreError):
    """The object exists already, or is not the one expected any more."""


class AccessDenied(StoreError):
    """The object store refused the credentials."""


class InvalidKey(StoreError):
    """A key that the object store cannot hold."""


class StoreUnavailable(StoreError):
    """The object store cannot be reached, or answers that it is busy."""

    transient = True


class LedgerError(ScorelineError):
    """The ledger and the job's plan disagree."""


class LedgerFenced(LedgerError):
    """The ledger is of another plan than the one in the bucket."""


class LedgerLost(LedgerError):
    """Redis knows nothing of a job that was begun: it was emptied."""


class LedgerUnavailable(LedgerError):
    """Redis, where the ledger lives, cannot be reached."""

    transient = True


class WebhookRefused(ScorelineError):
    """The receiver of a webhook answered that it does not want it."""


class WebhookUnavailable(ScorelineError):
    """The receiver of a webhook cannot be reached, or answers that it is busy."""

    transient = True


class QueueUnavailable(ScorelineError):
    """The broker cannot be reached."""

    transient = True


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Say how to install it where the block imports something of a worker that is not here; raises `PackageMissing`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PackageMissing(f"{what} needs {error.name!r}: pip install -r ml-requirements.txt") from error


def one_line(error: BaseException) -> str:
    """Return an error's message without its line ends."""
    return " ".join(str(error).split())


def describe(error: BaseException) -> str:
    """One line that says what went wrong: a domain error's own message, or type and message of any other."""
    text = one_line(error)
    if isinstance(error, ScorelineError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
