"""Objects in Cloudflare R2, or in anything that speaks the S3 protocol. The only module that imports boto3."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, assert_never

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from scoreline.storage.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidKey,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    one_line,
)
from scoreline.storage.objects import multipart
from scoreline.storage.objects.base import OVERWRITE, IfMatch, ObjectInfo, PutMode, StoredObject
from scoreline.storage.settings import R2Settings

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_MAX_KEY_BYTES = 1024  # R2's limit
_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
_DENIED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "Unauthorized",
    "Forbidden",
    "401",
    "403",
}
_BODY_FAULTS = (BotoCoreError, OSError)  # botocore has three of its own for a body that ends early
_SAME_KEY_S = 1.0  # R2 takes one write a second to a key, and answers 429 to the next
_TRIES_FOR_A_KEY = 4
_STEP_BYTES = 1 << 20
"""Read at a time of a body that broke before, to lose no more of it when it breaks again; the first try reads all of it
into one place, for that costs half of the CPU."""
_MULTIPART_GONE = "NoSuchUpload"


class R2Store:
    """A bucket in R2.

    Thread-safe. Not fork-safe: make one in each process.

    Parameters
    ----------
    settings : R2Settings
        Address and credentials.
    bucket : str
        Name of the bucket.
    max_attempts : int
        Requests made before a transient failure is raised. A worker waits; a person at a terminal does not.
    connect_timeout_s, read_timeout_s : float
        Seconds to wait for a connection, and between two reads of a body.
    connections : int
        Size of the connection pool: as many as threads share this store.
    """

    def __init__(
        self,
        settings: R2Settings,
        bucket: str,
        *,
        max_attempts: int = 5,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 30,
        connections: int = 16,
    ) -> None:
        self.bucket = bucket
        self._endpoint = settings.endpoint_url
        self._max_attempts = max_attempts
        self._parts_over_bytes = multipart.THRESHOLD_BYTES
        config = Config(
            retries={"mode": "standard", "total_max_attempts": max_attempts},
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            tcp_keepalive=True,
            max_pool_connections=connections,
            s3={"addressing_style": "path"},
            # boto3's default sends aws-chunked trailers over https, which R2 refuses.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client: S3Client = boto3.session.Session().client(
                "s3",
                endpoint_url=settings.endpoint_url,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                region_name=settings.region,
                config=config,
            )
        except BotoCoreError as error:  # a profile or a file that the machine's AWS_* variables name
            raise StoreError(f"boto3 cannot be set up: {error}") from error

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, if_match: str | None = None) -> StoredObject:
        """Read an object or a range of it; a body cut short is resumed where it broke (see `ObjectStore.get`).

        What makes progress goes on for as long as that takes.
        """
        start, stop = byte_range or (0, None)
        if stop is not None and stop <= start:
            return StoredObject(info=self.head(key), data=b"")
        received: list[bytes] = []
        attempt = 1
        while True:
            ranged = byte_range is not None or bool(received)
            had = len(received)
            step = sys.maxsize if attempt == 1 else _STEP_BYTES
            info, fault = self._read_body(key, received, start, stop, if_match, ranged, step)
            if fault is None:
                return StoredObject(info=info, data=received[0] if len(received) == 1 else b"".join(received))
            attempt = attempt + 1 if len(received) == had else 2
            if attempt > self._max_attempts:
                raise self._translate(fault, "read", key)
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
            if_match = info.etag  # the rest has to come from the same object

    def _read_body(
        self,
        key: str,
        received: list[bytes],
        start: int,
        stop: int | None,
        if_match: str | None,
        ranged: bool,
        step: int,
    ) -> tuple[ObjectInfo, Exception | None]:
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Key": _checked(key)}
        at = start + sum(map(len, received))
        if ranged:
            last = "" if stop is None else stop - 1
            arguments["Range"] = f"bytes={at}-{last}"
        if if_match is not None:
            arguments["IfMatch"] = f'"{if_match}"'
        try:
            answer = self._ask(self._client.get_object, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "read", key) from error
        if ranged and "ContentRange" not in answer:
            raise StoreError(f"{self._endpoint} sends all of {self.uri(key)} where a range of it was asked for")
        size = int(answer["ContentRange"].rpartition("/")[2]) if ranged else answer["ContentLength"]
        info = _info(key, size, answer["ETag"], answer.get("Metadata"))
        expected = (min(size, stop) if stop is not None else size) - at
        body = answer["Body"]
        try:
            while expected > 0 and (block := body.read(min(step, expected))):
                received.append(block)
                expected -= len(block)
        except _BODY_FAULTS as error:
            return info, error
        finally:
            body.close()
        if expected > 0:
            return info, StoreUnavailable(f"{self.uri(key)} ended {expected} bytes too early")
        return info, None

    def head(self, key: str) -> ObjectInfo:
        """Return what R2 knows of an object (see `ObjectStore.head`)."""
        try:
            answer = self._ask(self._client.head_object, Bucket=self.bucket, Key=_checked(key))
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "read", key) from error
        return _info(key, answer["ContentLength"], answer["ETag"], answer.get("Metadata"))

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object with one PutObject, or in parts where it is large (see `ObjectStore.put`)."""
        condition = _condition(mode)
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": _checked(key)}
        try:
            if len(data) > self._parts_over_bytes and not isinstance(mode, IfMatch):  # what is swapped is small
                etag = multipart.upload(self._client, self._ask, self.bucket, key, data, metadata or {}, condition)
            else:
                where |= {"Metadata": dict(metadata)} if metadata else {}
                etag = self._ask(self._client.put_object, **where, Body=data, **condition)["ETag"]
        except (ClientError, BotoCoreError) as error:
            failure = self._translate(error, "write", key)
            if isinstance(mode, IfMatch) and isinstance(failure, ObjectNotFound):
                failure = PreconditionFailed(f"{self.uri(key)} was deleted since it was read")
            raise failure from error
        return _info(key, len(data), etag, metadata)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in the order of their keys, a thousand a request (see `ObjectStore.list`)."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        try:
            for page in pages:
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # consoles write these as folders
                        yield _info(item["Key"], item["Size"], item["ETag"], None)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "list", prefix) from error

    def delete(self, key: str) -> None:
        """Remove an object (see `ObjectStore.delete`)."""
        try:
            self._ask(self._client.delete_object, Bucket=self.bucket, Key=_checked(key))
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "delete", key) from error

    def uri(self, key: str) -> str:
        """Return the key with its bucket, as a job's input is written."""
        return f"s3://{self.bucket}/{key}"

    def in_parts(self) -> R2Store:
        """Return this store as it writes large objects: in parts, here however small an object is."""
        store = copy.copy(self)
        store._parts_over_bytes = 0
        return store

    def open_uploads(self, prefix: str) -> Sequence[str]:
        """Return the keys below `prefix` whose upload in parts was begun and neither completed nor aborted."""
        try:
            return multipart.left_open(self._client, self.bucket, prefix)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "list the uploads of", prefix) from error

    def now(self) -> datetime:
        """Return what time it is for the server, in whole seconds; also where it refuses everything else."""
        try:
            answer: Mapping[str, Any] = self._client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            answer = error.response
        except BotoCoreError as error:
            raise self._translate(error, "reach", "") from error
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "date" not in headers:
            raise StoreError(f"{self._endpoint} does not say what time it is")
        return parsedate_to_datetime(headers["date"])

    def __repr__(self) -> str:
        return f"R2Store({self._endpoint!r}, {self.bucket!r})"

    def _ask(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """Call the client; where botocore's own tries came too soon for a key that many write, wait some more."""
        for attempt in range(1, _TRIES_FOR_A_KEY + 1):
            try:
                return method(**arguments)
            except ClientError as error:
                if _status(error) != 429 or attempt == _TRIES_FOR_A_KEY:
                    raise
                time.sleep(_SAME_KEY_S * random.uniform(1, 1 + attempt))
        raise AssertionError("there is at least one try")

    def _translate(self, error: Exception, verb: str, key: str) -> StoreError:
        """Turn every failure of boto3 into the domain's own; the only place that does."""
        what = f"{verb} {self.uri(key)} at {self._endpoint}"
        if isinstance(error, StoreError):
            return error
        if not isinstance(error, ClientError):
            return StoreUnavailable(f"cannot {what}: {one_line(error)}")
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = _status(error)
        if code == _MULTIPART_GONE:  # an earlier Complete may have succeeded though its answer was lost
            return PreconditionFailed(f"{self.uri(key)} may be written already: its upload is closed")
        if code == "NoSuchBucket":
            return BucketNotFound(
                f"no bucket {self.bucket!r} at {self._endpoint}: create it, or correct its name in the settings"
            )
        if code in _NOT_FOUND:
            return ObjectNotFound(f"no object {self.uri(key)}")
        if status in (409, 412) or code in ("PreconditionFailed", "ConditionalRequestConflict"):
            return PreconditionFailed(f"{self.uri(key)} exists already or changed since it was last seen")
        if code in _DENIED or status in (401, 403):
            return AccessDenied(f"cannot {what}: the credentials were refused ({code or status})")
        if status == 429 or (status >= 500 and code != "NotImplemented"):
            return StoreUnavailable(f"cannot {what}: it answered {code or status}")
        if status == 416:
            return PreconditionFailed(f"{self.uri(key)} is shorter than when it was last seen")
        return StoreError(f"cannot {what}: {code or status}")


def _condition(mode: PutMode) -> dict[str, str]:
    """Return the arguments that make a request of boto3 conditional."""
    match mode:
        case "overwrite":
            return {}
        case "create":
            return {"IfNoneMatch": "*"}
        case IfMatch(etag):
            return {"IfMatch": f'"{etag}"'}
        case _:
            assert_never(mode)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _checked(key: str) -> str:
    if not key or len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidKey(f"{key[:80]!r} is not a key: R2 takes 1 to {_MAX_KEY_BYTES} bytes")
    return key


def _info(key: str, size: int, etag: str, metadata: Mapping[str, str] | None) -> ObjectInfo:
    return ObjectInfo(key=key, size=size, etag=etag.strip('"'), metadata=dict(metadata or {}))
