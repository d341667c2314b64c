"""Whether the bucket does what results and records rely on: tried on small objects, which are removed again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from scoreline.storage import keys
from scoreline.storage.errors import AccessDenied, ObjectNotFound, ScorelineError, StoreUnavailable, describe
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.probe import DATA, METADATA, STALE, Probe
from scoreline.worker.doctor.setup import Setup

PROBING_S = 8.0
"""What is not tried by then is left out, so that there is time to clean up."""
_RIGHTS = "give R2_ACCESS_KEY_ID the right to list, read, write and delete: on R2, Object Read & Write"
_KEYS = "mend R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY"
_PLACE = "mend R2_ACCOUNT_ID, R2_ENDPOINT_URL or what stands between (a proxy, a firewall)"
_OTHER_STORE = "take a store that does it: R2, S3, or one that documents conditional writes"
_OF_BOTO3 = ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE", "AWS_USE_FIPS_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY")


def bucket(setup: Setup) -> Iterator[Finding]:
    """Try the contract of an object store on the main bucket, and list the others that jobs may name."""
    try:
        probe = Probe(setup.store, setup.leaving)
    except ScorelineError as fault:
        yield _explained(fault)
        return
    try:
        wrong = _probe(setup, probe)
    finally:
        left = probe.clean()
    if left:
        wrong.append(error(f"what a probe wrote cannot be deleted: {', '.join(left)}", _RIGHTS))
    wrong += _others(setup)
    yield from wrong or [ok(_summary(setup))]


def _probe(setup: Setup, probe: Probe) -> list[Finding]:
    deadline = time.monotonic() + PROBING_S
    wrong: list[Finding] = []
    for step in _STEPS:
        if setup.leaving.is_set() or time.monotonic() > deadline:
            wrong.append(warning(f"so slow that not all was tried within {PROBING_S:g} s", _PLACE))
            break
        try:
            wrong += step(probe)
        except ScorelineError as fault:
            wrong.append(_explained(fault))
            if step is _writing or isinstance(fault, (StoreUnavailable, ObjectNotFound)):
                break
    return wrong


def _listing(probe: Probe) -> Iterator[Finding]:
    next(iter(probe.store.list(keys.PROBES)), None)
    yield from ()


def _writing(probe: Probe) -> Iterator[Finding]:
    probe.put("once", metadata=METADATA, create_only=True)
    probe.put("swapped")
    yield from ()


def _reading(probe: Probe) -> Iterator[Finding]:
    got = probe.store.get(probe.key("once"))
    if got.data != DATA:
        yield error("an object does not come back as it was written", _OTHER_STORE)
    if dict(got.info.metadata) != METADATA:
        yield error("an object's metadata does not come back: no part's receipt can be read", _OTHER_STORE)


def _reading_ranges(probe: Probe) -> Iterator[Finding]:
    got = probe.store.get(probe.key("once"), byte_range=(2, 5))
    if (got.data, got.info.size) != (DATA[2:5], len(DATA)):
        yield error("another range of an object comes than was asked for: models cannot be streamed", _OTHER_STORE)


def _reading_what_was_seen(probe: Probe) -> Iterator[Finding]:
    if probe.accepts(lambda: probe.store.get(probe.key("once"), if_match=STALE)):
        yield error(
            "an object is read though its ETag is another (If-Match): a replaced input goes unseen", _OTHER_STORE
        )


def _listing_what_was_written(probe: Probe) -> Iterator[Finding]:
    if probe.key("once") not in [info.key for info in probe.store.list(probe.prefix)]:
        yield error("a listing lacks what was just written: recovery would score parts twice", _OTHER_STORE)


def _in_parts(probe: Probe) -> Iterator[Finding]:
    """Upload in one part, which may be small: of two the first would have to be 5 MiB."""
    if probe.in_parts is None:
        return
    try:
        probe.put("parts", create_only=True, in_parts=True)
    except AccessDenied as fault:
        yield error(f"in parts, as objects over 64 MiB need it: {describe(fault)}", _RIGHTS)
    except StoreUnavailable:
        raise
    except ScorelineError as fault:
        yield error(f"in parts, as objects over 64 MiB need it: {describe(fault)}", _OTHER_STORE)


def _creating_once(probe: Probe) -> Iterator[Finding]:
    if probe.accepts(lambda: probe.overwrite("once", create_only=True)):
        yield error(
            "an object is overwritten that was to be created once (If-None-Match): results could change", _OTHER_STORE
        )


def _swapping(probe: Probe) -> Iterator[Finding]:
    if probe.accepts(lambda: probe.overwrite("swapped", if_match=STALE)):
        yield error(
            "an object is overwritten though its ETag is another (If-Match): aliases and schedules would lose changes",
            _OTHER_STORE,
        )
    elif not probe.accepts(lambda: probe.overwrite("swapped", if_match=probe.etag("swapped"))):
        yield error(
            "an object with the right ETag (If-Match) cannot be overwritten: aliases could not be moved", _OTHER_STORE
        )


def _completing_once(probe: Probe) -> Iterator[Finding]:
    if probe.in_parts is None or not probe.wrote("parts"):
        return
    if probe.accepts(lambda: probe.overwrite("parts", create_only=True, in_parts=True)):
        yield error(
            "an upload in parts overwrites what was to be created once (If-None-Match): results could change",
            _OTHER_STORE,
        )
    try:
        still_open = probe.in_parts.open_uploads(probe.prefix)
    except AccessDenied as fault:
        yield warning(f"uploads that were begun: {describe(fault)}", _RIGHTS)
        return
    if still_open:
        yield warning(
            "an upload that was given up stays open, and costs what it holds",
            "allow s3:AbortMultipartUpload, and have a lifecycle rule end those of a week",
        )


_STEPS: tuple[Callable[[Probe], Iterator[Finding]], ...] = (
    _listing,
    _writing,
    _reading,
    _reading_ranges,
    _reading_what_was_seen,
    _listing_what_was_written,
    _in_parts,
    _creating_once,
    _swapping,
    _completing_once,
)


def _others(setup: Setup) -> Iterator[Finding]:
    """Other buckets may serve inputs alone: they are only listed."""
    for name in sorted(setup.storage.allowed_buckets - {setup.storage.bucket_name}):
        try:
            next(iter(setup.buckets[name].list(keys.PROBES)), None)
        except ScorelineError as fault:
            yield warning(f"ALLOWED_BUCKETS: {describe(fault)}", f"make the bucket, take it off the list, or {_RIGHTS}")


def _explained(fault: ScorelineError) -> Finding:
    message = describe(fault)
    if isinstance(fault, ObjectNotFound):
        remedy = "make the bucket, or mend R2_BUCKET"
    elif isinstance(fault, AccessDenied):
        wrong_key = "InvalidAccessKeyId" in message or "SignatureDoesNotMatch" in message
        remedy = _KEYS if wrong_key else "set this machine's clock" if "TimeTooSkewed" in message else _RIGHTS
    else:
        remedy = _PLACE if isinstance(fault, StoreUnavailable) else _OTHER_STORE
        if named := [name for name in _OF_BOTO3 if os.environ.get(name)]:
            remedy += f"; boto3 also goes by {', '.join(named)}, set here"
    return error(message, remedy)


def _summary(setup: Setup) -> str:
    kind = "objects" if setup.storage.use_r2 else f"files below {setup.storage.store_dir}"
    others = len(setup.storage.allowed_buckets) - 1
    return (
        f"{setup.store.bucket!r} lists, reads ranges of, creates once, swaps and deletes {kind}"
        + (", in parts too" if setup.storage.use_r2 else "")
        + (f"; {others} more can be listed" if others else "")
    )
