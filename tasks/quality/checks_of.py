"""Finds the checks of a job: those of the job itself, of its model version, or the defaults."""

from __future__ import annotations

from collections.abc import Callable

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.quality.check_types import Checks
from scoreline.tasks.quality.checks_file import decode, read_checks


def checks_of(given: str | None, published: Callable[[], bytes | None], ref: str) -> Checks:
    """Return the checks of a job.

    Parameters
    ----------
    given : str or None
        The text that the job was submitted with (`JobSpec.checks`). The text ``none`` switches all checks off.
    published : callable
        Returns ``checks.toml`` of the model version, or None if the version has none. It is called if the job was
        submitted without checks.
    ref : str
        The model version, ``name@version``, for messages.

    Returns
    -------
    Checks
        The defaults, which warn, if there is no text.

    Raises
    ------
    InvalidRequest
        A text has faults. Checks are read before a job begins, so that its end need not expect this error.
    """
    if given is not None:
        return read_checks(given, "the checks of the job")
    data = published()
    if data is None:
        return Checks()
    where = f"checks.toml of {ref}"
    return read_checks(decode(data, where), where)


def check_text(given: str | None) -> None:
    """Raise `InvalidRequest` if the text that a job would be submitted with has faults."""
    if given is None:
        return
    if not isinstance(given, str):
        raise InvalidRequest(f"checks {given!r} is not a text")
    read_checks(given, "the checks of the job")
