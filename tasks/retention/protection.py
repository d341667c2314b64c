"""Says why a job must stay although its time is over: something names it, or works on it, or may go on with it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.typed_json import MALFORMED, decode_object
from scoreline.tasks.dispatch.resume import rejected_job_id
from scoreline.tasks.job.documents import WITH_RESULTS, read_outcome
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.latest import FORMAT, Latest

_DIGITS = 4
"""Maximum number of digits in the number of a job that scores rejected rows."""


def under_way(main: ObjectStore, job_id: str) -> str:
    """Return why a job counts as under way; empty if it does not."""
    return "it is under way, or its webhook is not delivered" if exists(main, keys.active(job_id)) else ""


def named_by_latest(buckets: Buckets, output: str, job_id: str) -> str:
    """Return why ``latest.json`` of the output of a job forbids its removal; empty if it does not.

    The run that readers take stays, and so does a run that is about to become the latest, or was the latest less than a
    day ago. The runs that the document only lists may be removed. If the document cannot be read, every job of the
    output stays. If it has a format that this release does not know, every job stays that it names anywhere.
    """
    bucket, prefix = parse_uri(output)
    store = buckets[bucket]
    key = keys.latest(prefix)
    try:
        data = store.get(key).data
        document = decode_object(data)
        if document.get("format") == FORMAT:
            kept = Latest.from_json(data).keeps(job_id, datetime.now(UTC))
            return f"{store.uri(key)} names it" if kept else ""
    except ObjectNotFound:
        return ""
    except MALFORMED:
        return f"{store.uri(key)} cannot be read, so nothing of this output is removed"
    own = re.compile(rf"(?:.*/)?(?:job_id=)?{re.escape(job_id)}(?:/.*)?", re.DOTALL)
    return f"{store.uri(key)} names it" if any(own.fullmatch(text) for text in _texts(document)) else ""


def rescored(main: ObjectStore, job_id: str) -> str:
    """Return the reason if a job that scores the rejected rows of this job may still read its rows; otherwise empty.

    Such a job reads the rejected rows when it is planned. If the job itself scored records, the other job also reads
    these records.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for prefix in sorted({_without_number(job_id, 10**digits) for digits in range(_DIGITS)}):
        for info in main.list(f"{keys.JOBS}{prefix}"):
            other, _, name = info.key.removeprefix(keys.JOBS).partition("/")
            number = other.removeprefix(prefix)
            if number.isdecimal() and other == rejected_job_id(job_id, int(number)):
                names[other].add(name)
    for other, found in sorted(names.items()):
        if found == {"job.json"} and not exists(main, keys.active(other)):  # it was removed
            continue
        try:
            outcome = read_outcome(main, other)
        except DocumentCorrupt:
            return f"job {other} scores its rejected rows, and cannot be read"
        if outcome is None or outcome.state not in WITH_RESULTS:
            return (
                f"job {other} scores its rejected rows, and {'is under way' if outcome is None else 'can be resumed'}"
            )
        if outcome.rejected and (reason := rescored(main, other)):
            return reason
    return ""


def _without_number(job_id: str, number: int) -> str:
    """Return the id of a job that scores rejected rows, without the number. A long id is cut to make room for it."""
    return rejected_job_id(job_id, number).removesuffix(str(number))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a decoded document, names of fields included."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for name, item in value.items():
                yield name
                yield from _texts(item)
