"""Checks that the bucket supports all operations of jobs. The check writes small objects, and removes them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from scoreline.storage import keys
from scoreline.storage.errors import (
    AccessDenied,
    BucketNotFound,
    ConditionIgnored,
    NotAnObjectStore,
    ObjectNotFound,
    ScorelineError,
    StoreUnavailable,
    describe,
)
from scoreline.storage.objects.base import CREATE, IfMatch
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context
from scoreline.worker.doctor.probe import DATA, METADATA, STALE, Probe

PROBING_S = 8.0
"""Seconds after which the remaining steps are skipped, so that there is time to clean up."""
_PERMISSIONS = "allow R2_ACCESS_KEY_ID to list, read, write and delete objects; on R2: Object Read & Write"
_CREDENTIALS = "correct R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY"
_ENDPOINT = "correct R2_ACCOUNT_ID or R2_ENDPOINT_URL, and check the proxy or firewall in between"
_OTHER_STORE = "use a store that supports this: R2, S3, or another that documents conditional writes"
_HOPELESS = StoreUnavailable, NotAnObjectStore, BucketNotFound, ObjectNotFound
"""Faults that would also make every further step fail."""
_READ_BY_BOTO3 = (
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_CA_BUNDLE",
    "AWS_USE_FIPS_ENDPOINT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
)


def bucket(context: Context) -> Iterator[Finding]:
    """Try all operations that jobs need on the main bucket, and list the other buckets that jobs may use."""
    try:
        probe = Probe(context.store, context.leaving)
    except ScorelineError as fault:
        yield _finding_of(fault)
        return
    try:
        wrong = _probe(context, probe)
    finally:
        left = probe.clean()
    if left:
        wrong.append(error(f"objects that this check wrote cannot be deleted: {', '.join(left)}", _PERMISSIONS))
    wrong += _others(context)
    yield from wrong or [ok(_summary(context))]


def _probe(context: Context, probe: Probe) -> list[Finding]:
    deadline = time.monotonic() + PROBING_S
    wrong: list[Finding] = []
    for step in _STEPS:
        if context.leaving.is_set() or time.monotonic() > deadline:
            wrong.append(
                warning(f"the bucket is so slow that some steps were skipped after {PROBING_S:g} s", _ENDPOINT)
            )
            break
        try:
            wrong += step(probe)
        except ScorelineError as fault:
            wrong.append(_finding_of(fault))
            if step is _writing or isinstance(fault, _HOPELESS):
                break
    return wrong


def _listing(probe: Probe) -> Iterator[Finding]:
    next(iter(probe.store.list(keys.PROBES)), None)
    yield from ()


def _writing(probe: Probe) -> Iterator[Finding]:
    probe.put("once", mode=CREATE, metadata=METADATA)
    probe.put("swapped")
    yield from ()


def _reading(probe: Probe) -> Iterator[Finding]:
    got = probe.store.get(probe.key("once"))
    if got.data != DATA:
        yield error("an object is not read back as it was written", _OTHER_STORE)
    if dict(got.info.metadata) != METADATA:
        yield error("the metadata of an object is lost, so the receipts of parts cannot be read", _OTHER_STORE)


def _reading_ranges(probe: Probe) -> Iterator[Finding]:
    got = probe.store.get(probe.key("once"), byte_range=(2, 5))
    if (got.data, got.info.size) != (DATA[2:5], len(DATA)):
        yield error("a read returns another range than was requested, so models cannot be streamed", _OTHER_STORE)


def _reading_conditionally(probe: Probe) -> Iterator[Finding]:
    def read() -> None:
        with contextlib.suppress(ConditionIgnored):
            probe.store.get(probe.key("once"), if_match=STALE)

    if probe.accepts(read):
        yield error("a read ignores If-Match, so a replaced input would go unnoticed", _OTHER_STORE)


def _listing_new_objects(probe: Probe) -> Iterator[Finding]:
    if probe.key("once") not in [info.key for info in probe.store.list(probe.prefix)]:
        yield error(
            "a listing lacks an object that was just written, so recovery would score parts twice", _OTHER_STORE
        )


def _uploading_in_parts(probe: Probe) -> Iterator[Finding]:
    """Try a multipart upload with a single part. If there were two parts, the first part would need at least 5 MiB."""
    if probe.in_parts is None:
        return
    try:
        probe.put("parts", mode=CREATE, in_parts=True)
    except AccessDenied as fault:
        yield error(f"multipart uploads, which objects over 64 MiB need: {describe(fault)}", _PERMISSIONS)
    except StoreUnavailable:
        raise
    except ScorelineError as fault:
        yield error(f"multipart uploads, which objects over 64 MiB need: {describe(fault)}", _OTHER_STORE)


def _creating_once(probe: Probe) -> Iterator[Finding]:
    if probe.accepts(lambda: probe.overwrite("once", mode=CREATE)):
        yield error("a write ignores If-None-Match, so results could be overwritten", _OTHER_STORE)


def _swapping(probe: Probe) -> Iterator[Finding]:
    if probe.accepts(lambda: probe.overwrite("swapped", mode=IfMatch(STALE))):
        yield error(
            "a write ignores If-Match, so changes of aliases and schedules would be lost",
            _OTHER_STORE,
        )
    elif not probe.accepts(lambda: probe.overwrite("swapped", mode=IfMatch(probe.etag("swapped")))):
        yield error("a write is refused although its If-Match holds, so aliases could not be moved", _OTHER_STORE)


def _uploading_once(probe: Probe) -> Iterator[Finding]:
    if probe.in_parts is None or not probe.wrote("parts"):
        return
    if probe.accepts(lambda: probe.overwrite("parts", mode=CREATE, in_parts=True)):
        yield error(
            "a multipart upload ignores If-None-Match, so results could be overwritten",
            _OTHER_STORE,
        )
    try:
        still_open = probe.in_parts.open_uploads(probe.prefix)
    except AccessDenied as fault:
        yield warning(f"unfinished multipart uploads cannot be listed: {describe(fault)}", _PERMISSIONS)
        return
    if still_open:
        yield warning(
            "an aborted multipart upload still exists, and its parts are charged for",
            "allow s3:AbortMultipartUpload, and add a lifecycle rule that aborts uploads after a week",
        )


_STEPS: tuple[Callable[[Probe], Iterator[Finding]], ...] = (
    _listing,
    _writing,
    _reading,
    _reading_ranges,
    _reading_conditionally,
    _listing_new_objects,
    _uploading_in_parts,
    _creating_once,
    _swapping,
    _uploading_once,
)


def _others(context: Context) -> Iterator[Finding]:
    """List the other buckets. No other operation is tried, because these buckets may contain only inputs."""
    for name in sorted(context.storage.allowed_buckets - {context.storage.bucket_name}):
        try:
            next(iter(context.buckets[name].list(keys.PROBES)), None)
        except ScorelineError as fault:
            yield warning(
                f"ALLOWED_BUCKETS: {describe(fault)}",
                f"create the bucket, remove it from ALLOWED_BUCKETS, or {_PERMISSIONS}",
            )


def _finding_of(fault: ScorelineError) -> Finding:
    message = describe(fault)
    if isinstance(fault, BucketNotFound | ObjectNotFound):
        remedy = "create the bucket, or correct R2_BUCKET or R2_ENDPOINT_URL"
    elif isinstance(fault, AccessDenied):
        wrong_key = "InvalidAccessKeyId" in message or "SignatureDoesNotMatch" in message
        remedy = (
            _CREDENTIALS
            if wrong_key
            else "synchronise the clock of this machine"
            if "TimeTooSkewed" in message
            else _PERMISSIONS
        )
    else:
        remedy = _ENDPOINT if isinstance(fault, StoreUnavailable | NotAnObjectStore) else _OTHER_STORE
        if named := [name for name in _READ_BY_BOTO3 if os.environ.get(name)]:
            remedy += f"; note that boto3 also reads {', '.join(named)}, set here"
    return error(message, remedy)


def _summary(context: Context) -> str:
    where = f"{context.store.bucket!r}" if context.storage.use_r2 else f"the directory {context.storage.store_dir}"
    others = len(context.storage.allowed_buckets) - 1
    return (
        f"{where} supports listing, ranged reads, conditional writes"
        + (", multipart uploads" if context.storage.use_r2 else "")
        + " and deletion"
        + (f"; {others} more {'bucket' if others == 1 else 'buckets'} can be listed" if others else "")
    )
