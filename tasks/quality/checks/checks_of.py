"""Finds the checks of a job: those of the job itself, of its model version, or the defaults."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.checks_file import decode, read_checks

_KEPT = 16


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
        return read_checks(given, "the text of the checks")
    data = published()
    if data is None:
        return Checks()
    where = f"checks.toml of {ref}"
    return read_checks(decode(data, where), where)


class PublishedChecks:
    """The checks of model versions that this process has read last. A version never changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, bytes | None] = OrderedDict()

    def of(self, manifest_sha256: str, read: Callable[[], bytes | None]) -> bytes | None:
        """Return ``checks.toml`` of a version, and call `read` only if it is not known."""
        if manifest_sha256 not in self._known:
            self._known[manifest_sha256] = read()
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[manifest_sha256]


def check_text(given: str | None) -> None:
    """Raise `InvalidRequest` if the text that a job would be submitted with has faults."""
    if given is None:
        return
    if not isinstance(given, str):
        raise InvalidRequest(f"checks {given!r} is not a text")
    read_checks(given, "the text of the checks")
