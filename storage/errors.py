"""The classes of all errors that Scoreline raises on purpose.

::

    ScorelineError
    ├── InvalidSettings            environment variables cannot be used
    ├── PackageMissing             a package is not installed
    ├── InvalidRequest             the request cannot be carried out as it was made
    │   ├── InvalidURI
    │   ├── BucketNotAllowed
    │   ├── TableNotAllowed
    │   ├── ModelNotFound
    │   ├── ModelInUse
    │   ├── InputNotFound
    │   ├── JobNotFound
    │   │   └── JobRemoved
    │   ├── JobConflict
    │   ├── NothingToResume
    │   └── PromotionRefused
    ├── InputError                 the input cannot be scored
    │   ├── InputChanged
    │   ├── MissingColumns
    │   └── UnreadableInput
    ├── ModelError                 the model cannot be trusted or loaded
    │   ├── ModelCorrupt
    │   ├── ModelUntrusted
    │   └── ModelUnloadable
    ├── ScoringError               an estimator failed or broke its output schema
    │   ├── RejectBudgetExceeded
    │   └── ProcessDied
    ├── JobFailed                  a job ended without all its results
    ├── ResultsDamaged             a file of results is not the one that its job wrote
    ├── DocumentCorrupt            a job's document is not what Scoreline wrote
    ├── StoreError                 the object store refused a request
    │   ├── BucketNotFound
    │   ├── ObjectNotFound
    │   ├── PreconditionFailed
    │   │   └── ConditionIgnored
    │   ├── AccessDenied
    │   ├── InvalidKey
    │   ├── NotAnObjectStore       another kind of server answers
    │   └── StoreUnavailable       transient
    ├── LedgerError                transient: the ledger cannot be used
    │   ├── LedgerFenced
    │   ├── LedgerLost
    │   │   └── LedgerCorrupt
    │   └── LedgerUnavailable
    ├── AlertUndelivered           the service of a recipient does not take an alert
    ├── DatabaseError              a database refused a statement, or a table does not fit
    │   ├── LoadSuperseded         a newer job was loaded into the table
    │   ├── LoadBudgetExceeded     the table refused too many rows
    │   └── DatabaseUnavailable    transient
    ├── WebhookRefused             the receiver does not accept a webhook
    ├── PlatformRefused            Heroku refuses to change the number of dynos
    ├── StepUnfinished             transient: the next attempt of a step continues with the rest
    ├── DeadlinePassed             the job has not ended by its deadline
    ├── PartInterrupted            transient: the part is scored again
    ├── PlanPending                transient: another job of the schedule has to be planned first
    ├── WebhookUnavailable         transient
    ├── PlatformUnavailable        transient
    └── QueueUnavailable           transient

After a transient error, the same call may succeed later. After any other error, the same call fails again until the
cause is removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class ScorelineError(Exception):
    """Raised when Scoreline cannot carry out a request. All other errors in this module are subclasses.

    The only argument of each class is a message, so that errors can be pickled and stored as JSON.
    """

    transient: bool = False
    """Whether the same call may succeed later."""
    quotes: bool = False
    """Whether the message may quote an input (its values or column names) or the content of a document."""


class InvalidSettings(ScorelineError):
    """Raised when environment variables have invalid values or are missing.

    The message names all invalid and all missing variables.
    """

    faults: tuple[str, ...] = ()
    """The same, one fault at a time; empty if the message is about a single fault."""

    @classmethod
    def from_faults(cls, faults: Sequence[str]) -> InvalidSettings:
        """Return one error that lists all `faults`, in the given order."""
        error = cls("invalid settings: " + "; ".join(faults))
        error.faults = tuple(faults)
        return error


class PackageMissing(ScorelineError):
    """Raised when an operation needs a package that is not installed."""


class InvalidRequest(ScorelineError):
    """Raised when a request cannot be carried out as it was made."""


class PromotionRefused(InvalidRequest):
    """Raised when an alias is not moved, because the version would change results or breaks a rule of promotion."""


class InvalidURI(InvalidRequest):
    """Raised when a URI is malformed."""


class BucketNotAllowed(InvalidRequest):
    """Raised when a URI names a bucket that is not in ALLOWED_BUCKETS."""


class TableNotAllowed(InvalidRequest):
    """Raised when a job names a table that is not in ALLOWED_TABLES or ALLOWED_SOURCES."""


class ModelNotFound(InvalidRequest):
    """Raised when no model, version or alias has the given name."""


class ModelInUse(InvalidRequest):
    """Raised when a version cannot be deleted because an alias or a running job needs it."""


class InputNotFound(InvalidRequest):
    """Raised when the input matches no object."""


class JobNotFound(InvalidRequest):
    """Raised when no job has the given id."""


class JobRemoved(JobNotFound):
    """Raised when a job was removed because its results are no longer kept. The job id stays taken."""


class JobConflict(InvalidRequest):
    """Raised when a job with a different spec already has the given id."""


class NothingToResume(InvalidRequest):
    """Raised when a job cannot be resumed, because it is still running or all its results are complete."""


class InputError(ScorelineError):
    """Raised when the input cannot be scored."""

    quotes = True


class InputChanged(InputError):
    """Raised when an input object was replaced or deleted after the job was planned."""


class MissingColumns(InputError):
    """Raised when an input object lacks columns that the model needs.

    Also raised if there are more or fewer features than the model expects, or if several columns match one feature.
    """


class UnreadableInput(InputError):
    """Raised when an input object cannot be read in the format that its name or the options specify."""


class ModelError(ScorelineError):
    """Raised when a model cannot be trusted or loaded."""


class ModelCorrupt(ModelError):
    """Raised when the stored bytes of a model differ from its manifest."""

    quotes = True


class ModelUntrusted(ModelError):
    """Raised when a model is not signed by any key in MODEL_VERIFY_KEYS."""


class ModelUnloadable(ModelError):
    """Raised when a model's bytes are intact but cannot be loaded in this environment."""


UNLOADABLE_HERE = (ModelUnloadable, ModelUntrusted)
"""Errors of a model that one worker cannot load, although another worker may be able to load it."""


class ScoringError(ScorelineError):
    """Raised when an estimator fails, or when its output does not match the output schema in the plan."""

    quotes = True


class RejectBudgetExceeded(ScoringError):
    """Raised when a job rejects more rows than its budget allows."""


class ProcessDied(ScoringError):
    """Raised when a step or a part is given up, because its worker process died in each attempt."""

    quotes = False


class JobFailed(ScorelineError):
    """Raised when a job ended without all its results."""

    quotes = True


class DocumentCorrupt(ScorelineError):
    """Raised when a stored document of a job differs from what Scoreline wrote."""

    quotes = True


class ResultsDamaged(ScorelineError):
    """Raised when a file of results differs from the one that its job wrote, or is gone."""


class StoreError(ScorelineError):
    """Raised when the object store refuses a request."""


class BucketNotFound(StoreError):
    """Raised when the object store has no bucket with the given name."""


class ObjectNotFound(StoreError):
    """Raised when no object has the given key."""


class PreconditionFailed(StoreError):
    """Raised when an object already exists, or when it was changed or deleted after it was read."""


class ConditionIgnored(PreconditionFailed):
    """Raised when a store answers a conditional read with another version of the object."""


class AccessDenied(StoreError):
    """Raised when the object store refuses the credentials."""


class InvalidKey(StoreError):
    """Raised when a key is not valid in the object store."""


class NotAnObjectStore(StoreError):
    """Raised when the server at the address of the object store does not behave like an object store."""


class StoreUnavailable(StoreError):
    """Raised when the object store cannot be reached or answers that it is busy."""

    transient = True


class LedgerError(ScorelineError):
    """Raised when the ledger of a job cannot be used.

    All such errors are transient, because a ledger that was lost or overwritten is rebuilt from the bucket. No job
    fails because of its ledger.
    """

    transient = True


class LedgerFenced(LedgerError):
    """Raised when the plan for which the ledger was opened is not the plan in the bucket."""


class LedgerLost(LedgerError):
    """Raised when a running job has no ledger, because Redis was emptied."""


class LedgerCorrupt(LedgerLost):
    """Raised when another program has overwritten Redis keys of a running job's ledger."""


class LedgerUnavailable(LedgerError):
    """Raised when Redis, where the ledger is stored, cannot be reached."""


class DatabaseError(ScorelineError):
    """Raised when a database refuses a statement, or when a table does not fit the results."""

    quotes = True


class LoadSuperseded(DatabaseError):
    """Raised when a newer job was loaded into a table, or is being loaded into it."""


class LoadBudgetExceeded(DatabaseError):
    """Raised when a table refuses more rows than the job allows."""


class DatabaseUnavailable(DatabaseError):
    """Raised when a database does not answer, is read-only, or cannot do the work at the moment."""

    transient = True


class WebhookRefused(ScorelineError):
    """Raised when the receiver of a webhook rejects it."""


class AlertUndelivered(ScorelineError):
    """Raised when the service of a recipient does not take an alert."""


class PlatformRefused(ScorelineError):
    """Raised when the platform that runs the workers refuses a request, for example because of a wrong key."""


class StepUnfinished(ScorelineError):
    """Raised when a step has used up its time. The next attempt continues where the step stopped."""

    transient = True


class DeadlinePassed(ScorelineError):
    """Raised when a job has not ended by its deadline."""


class PartInterrupted(ScorelineError):
    """Raised when the time limit of a part is reached during a step of another job. The part is scored again."""

    transient = True


class PlanPending(ScorelineError):
    """Raised when a job cannot be planned or resumed before another job of its schedule is planned."""

    transient = True


class WebhookUnavailable(ScorelineError):
    """Raised when the receiver of a webhook cannot be reached or answers that it is busy."""

    transient = True


class PlatformUnavailable(ScorelineError):
    """Raised when the platform that runs the workers cannot be reached, is busy, or limits the rate of requests."""

    transient = True


class QueueUnavailable(ScorelineError):
    """Raised when the message broker cannot be reached."""

    transient = True


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Turn a failed import in the block into an error that says how to install the missing package.

    Parameters
    ----------
    what : str
        The operation that needs the package, for the message.

    Raises
    ------
    PackageMissing
        The block imports a package that is listed in `ml-requirements.txt` but not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise PackageMissing(f"{what} needs {missing_package(error)!r}: pip install -r ml-requirements.txt") from error


def missing_package(error: ModuleNotFoundError) -> str:
    """Return the top-level package of the module that could not be imported."""
    return (error.name or "").partition(".")[0]


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def describe(error: BaseException) -> str:
    """Return one line that says what went wrong.

    The line contains the message of the error, preceded by the type unless the error is a `ScorelineError`.

    >>> describe(KeyError("x")), describe(StoreError("cannot read"))
    ("KeyError: 'x'", 'cannot read')
    """
    text = one_line(error)
    if isinstance(error, ScorelineError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def without_quotes(error: BaseException) -> str:
    """Return one line that says what went wrong, without quoting any input or document.

    Anyone who can reach the broker can read this line, even without access to the bucket.

    >>> without_quotes(MissingColumns("a.csv lacks 'x'; it has 'Jane Doe'"))
    'an input object lacks columns that the model needs (MissingColumns)'
    >>> without_quotes(ValueError("could not convert string to float: 'Jane Doe'"))
    'an exception that is not one of Scoreline (ValueError)'
    >>> without_quotes(InputNotFound("no input at s3://data/in/"))
    'no input at s3://data/in/'
    """
    name = type(error).__name__
    if not isinstance(error, ScorelineError):
        return f"an exception that is not one of Scoreline ({name})"
    if not error.quotes:
        return describe(error)
    first = (type(error).__doc__ or "").partition(".")[0]
    return f"{first.removeprefix('Raised when ')} ({name})"
