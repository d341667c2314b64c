"""Objects in Cloudflare R2 or on another server with the S3 protocol.

Only this module imports boto3, and only `signed_requests` and `listing_parser` import botocore, too.
"""

from __future__ import annotations

import contextlib
import copy
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import batched
from typing import TYPE_CHECKING, Any, Literal, assert_never

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp

from scoreline.storage.errors import (
    ConditionIgnored,
    InvalidKey,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    one_line,
)
from scoreline.storage.objects import answers, failures, multipart, requests
from scoreline.storage.objects.base import OVERWRITE, IfMatch, ObjectInfo, PutMode, StoredObject, Upload
from scoreline.storage.objects.listing_parser import ListingParserFactory
from scoreline.storage.objects.signed_requests import SignedRequests, open_connections
from scoreline.storage.settings import R2Settings

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_MAX_KEY_BYTES = 1024  # R2's limit
_BODY_ERRORS = (BotoCoreError, OSError)  # botocore raises three types of errors if a body ends early
_SAME_KEY_S = 1.0  # R2 accepts one write per second to each key, and answers 429 to further writes
_THROTTLED_ATTEMPTS = 4
_FIRST_CONNECT_S = 2.0
"""Maximum number of seconds to wait for a connection before the client connects. If the server cannot be reached, this
time comes in addition to that of the client's attempts."""
_BATCH_KEYS = 1_000  # the limit of DeleteObjects
_DELETE_THREADS = 8
_BILLED: Mapping[str, Literal["a", "b"]] = {
    "head_object": "b",
    "put_object": "a",
    "create_multipart_upload": "a",
    "upload_part": "a",
    "complete_multipart_upload": "a",
}
"""The class in which R2 bills a request, by the method of the client. Reads and listings are counted where they are
sent."""
_READ_BYTES = 1 << 20
"""Number of bytes per read if a body is read into memory of the caller, or if an earlier read was cut short. If a read
is cut short again, little is lost. All other bodies are read at once, which takes half as much CPU time."""


class R2Store:
    """A bucket in R2.

    A store is thread-safe but not fork-safe: each process needs its own store.

    Parameters
    ----------
    settings : R2Settings
        Endpoint and credentials.
    bucket : str
        Name of the bucket.
    max_attempts : int
        Number of failed requests after which a transient error is raised.
    connect_timeout_s, read_timeout_s : float
        Seconds to wait for a connection, and for the next bytes of a response.
    connections : int
        Size of the connection pool. The size should equal the number of threads that share the store.
    """

    def __init__(
        self,
        settings: R2Settings,
        bucket: str,
        *,
        max_attempts: int = 5,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 30,
        connections: int = 64,
    ) -> None:
        self.bucket = bucket
        self.rewrite_after_s = _SAME_KEY_S
        self.uses_https = settings.endpoint_url.startswith("https://")
        self._endpoint = settings.endpoint_url
        self._max_attempts = max_attempts
        self._multipart_above_bytes = multipart.THRESHOLD_BYTES
        self._deletes_batches = True
        config = Config(
            retries={"mode": "standard", "total_max_attempts": max_attempts},
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            tcp_keepalive=True,
            max_pool_connections=connections,
            s3={"addressing_style": "path"},
            signature_version="s3v4",  # of presigned addresses, too
            # By default boto3 sends aws-chunked trailers over https, and R2 refuses these trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            session = botocore.session.Session()
            session.register_component("response_parser_factory", ListingParserFactory(_parse_time))
            self.client: S3Client = boto3.session.Session(botocore_session=session).client(
                "s3",
                endpoint_url=settings.endpoint_url,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                region_name=settings.region,
                config=config,
            )
            self._signed = SignedRequests(
                settings,
                bucket,
                open_connections(
                    settings.endpoint_url,
                    ca_bundle=session.get_config_variable("ca_bundle"),
                    timeouts_s=(min(connect_timeout_s, _FIRST_CONNECT_S), read_timeout_s),
                    most_idle=connections,
                ),
                self.client.meta.config.user_agent,
            )
        except ValueError as error:  # boto3 refuses the host, for example if it contains an underscore
            raise StoreError(f"R2_ENDPOINT_URL cannot be used: {one_line(error)}") from error
        except BotoCoreError as error:  # AWS_* environment variables name a profile or file that is missing or invalid
            raise StoreError(f"boto3 cannot be set up: {error} (check the AWS_* variables)") from error

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`). If the body is cut short, request the rest.

        Only attempts that receive no bytes count towards `max_attempts`, so that a slow transfer can continue.
        """
        start, stop = byte_range or (0, None)
        if stop is not None and stop <= start:
            return StoredObject(info=self.head(key), data=b"")
        received = _Received(into)
        attempt = 1
        while True:
            ranged = byte_range is not None or received.size > 0
            size_before = received.size
            read_bytes = sys.maxsize if attempt == 1 and into is None else _READ_BYTES
            first = attempt == 1
            info, error = self._read_body(key, received, start, stop, if_match, ranged, read_bytes, first)
            if error is None:
                return StoredObject(info=info, data=received.join())
            attempt = attempt + 1 if received.size == size_before else 2
            if attempt > self._max_attempts:
                raise self._translate(error, "read", key)
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
            if_match = info.etag  # a retry must read the same version of the object

    def _read_body(
        self,
        key: str,
        received: _Received,
        start: int,
        stop: int | None,
        if_match: str | None,
        ranged: bool,
        read_bytes: int,
        first: bool,
    ) -> tuple[ObjectInfo, Exception | None]:
        position = start + received.size
        conditions: dict[str, str] = {}
        if ranged:
            last = "" if stop is None else stop - 1
            conditions["Range"] = f"bytes={position}-{last}"
        if if_match is not None:
            conditions["IfMatch"] = f'"{if_match}"'
        try:
            answer = self._request(_check_key(key), conditions, first=first)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "read", key) from error
        with contextlib.closing(answer["Body"]) as body:
            if ranged and "ContentRange" not in answer:
                raise StoreError(
                    f"{self._endpoint} answered a range request for {self.uri(key)} with the whole object: use a "
                    "store that supports Range"
                )
            size = _size_of(answer, position if ranged else None)
            if size is None:
                raise StoreError(
                    f"{self._endpoint} answered a range request for {self.uri(key)} with {answer['ContentRange']!r}, "
                    f"not with the bytes from {position} on: use a store that supports Range"
                )
            info = _info(key, size, answer["ETag"], answer.get("Metadata"))
            # The store, or a proxy before it, may ignore the condition
            if if_match is not None and _weak(if_match) != _weak(info.etag):
                raise ConditionIgnored(
                    f"{self.uri(key)} was changed since it was listed: the store ignores If-Match, and has another "
                    "version"
                )
            expected = (min(size, stop) if stop is not None else size) - position
            try:
                while expected > 0 and (count := received.read_from(body, min(read_bytes, expected))):
                    expected -= count
            except _BODY_ERRORS as error:
                return info, error
            if expected > 0:
                return info, StoreUnavailable(f"the response for {self.uri(key)} ended {expected:,} bytes too early")
            return info, None

    def _request(self, key: str, conditions: Mapping[str, str], *, first: bool) -> Mapping[str, Any]:
        """Request an object. Only the first request for it is sent without the client."""
        by_client = self._by_client(self.client.get_object, key, **conditions)
        requests.note("b")
        return self._signed.get(key, conditions, by_client) if first else by_client()

    def _by_client(self, method: Callable[..., Any], key: str, **arguments: Any) -> Callable[[], Mapping[str, Any]]:
        """Return a function that sends a request for an object with the client. The caller has counted the request."""

        def call() -> Mapping[str, Any]:
            found: Mapping[str, Any] = self._call(method, Bucket=self.bucket, Key=key, counted=True, **arguments)
            return found

        return call

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object (see `ObjectStore.head`)."""
        try:
            by_client = self._by_client(self.client.head_object, _check_key(key))
            requests.note("b")
            answer = self._signed.head(key, by_client)
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
        """Write an object with one PutObject request, or in parts if it is large (see `ObjectStore.put`)."""
        condition = _condition(mode)
        with self._writing(_check_key(key), mode):
            # Objects that are written with IfMatch are always small, and need no multipart upload.
            if len(data) > self._multipart_above_bytes and not isinstance(mode, IfMatch):
                etag = multipart.upload(self._open_parts(key, mode, metadata), data)
            else:
                named: dict[str, Any] = {"Metadata": dict(metadata)} if metadata else {}
                if is_page := key.endswith(".html"):  # without its type, a browser offers to download the page
                    named["ContentType"] = "text/html; charset=utf-8"
                by_client = self._by_client(self.client.put_object, key, Body=data, **named, **condition)
                requests.note("a")
                etag = (
                    by_client()["ETag"]
                    if is_page
                    else self._signed.put(key, data, condition, metadata or {}, by_client)["ETag"]
                )
        return _info(key, len(data), etag, metadata)

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin a multipart upload (see `ObjectStore.open_upload`)."""
        return _TranslatedUpload(self, key, mode, metadata)

    def _open_parts(self, key: str, mode: PutMode, metadata: Mapping[str, str] | None) -> multipart.PartsUpload:
        return multipart.PartsUpload(
            self.client, self._call, self.bucket, _check_key(key), metadata or {}, _condition(mode)
        )

    @contextlib.contextmanager
    def _writing(self, key: str, mode: PutMode) -> Iterator[None]:
        """Convert errors of boto3 that occur while an object is written."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            failure = self._translate(error, "write", key)
            if isinstance(failure, ObjectNotFound):
                if not isinstance(mode, IfMatch):
                    raise answers.not_a_store(self._endpoint) from error
                failure = PreconditionFailed(f"{self.uri(key)} was deleted since it was read")
            raise failure from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects as the server sorts them, with one request per 1,000 objects (see `ObjectStore.list`)."""
        for page in self._pages(Prefix=prefix):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # web consoles create objects with such keys to show folders
                    modified = item["LastModified"].timestamp()
                    yield _info(item["Key"], item["Size"], item["ETag"], modified=modified)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders below `prefix` (see `ObjectStore.folders`)."""
        pages = self._pages(Prefix=prefix, Delimiter="/")
        found = (item["Prefix"] for page in pages for item in page.get("CommonPrefixes", []))
        return sorted(folder.removeprefix(prefix).removesuffix("/") for folder in found)

    def _pages(self, **options: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a listing."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **options)
        try:
            for page in pages:
                requests.note("a")
                answers.check_answer("list_objects_v2", page, self._endpoint)
                yield page
        except (ClientError, BotoCoreError) as error:
            failure = self._translate(error, "list", options["Prefix"])
            if isinstance(failure, ObjectNotFound):
                failure = failures.no_bucket(self.bucket, self._endpoint)
            raise failure from error

    def presign_read(self, key: str, *, seconds: int, disposition: str) -> str:
        """See `PresignsReads`."""
        arguments = {
            "Bucket": self.bucket,
            "Key": _check_key(key),
            "ResponseContentDisposition": disposition,
            "ResponseContentType": "application/octet-stream",
        }
        return self.client.generate_presigned_url("get_object", Params=arguments, ExpiresIn=seconds)

    def delete(self, key: str) -> None:
        """Delete an object (see `ObjectStore.delete`)."""
        try:
            self._signed.delete(_check_key(key), self._by_client(self.client.delete_object, key))
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "delete", key) from error

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, 1,000 with each request (see `ObjectStore.delete_many`).

        Some servers refuse such requests. Objects that were not deleted by them are deleted one by one.
        """
        for batch in batched(keys, _BATCH_KEYS):
            if left := sorted({*map(_check_key, batch)} - self._delete_batch(batch)):
                with ThreadPoolExecutor(_DELETE_THREADS, thread_name_prefix="delete") as pool:
                    list(pool.map(self.delete, left))

    def _delete_batch(self, batch: Sequence[str]) -> set[str]:
        """Delete objects with one request. Return the keys that the answer confirms."""
        if not self._deletes_batches:
            return set()
        wanted: Any = {"Objects": [{"Key": key} for key in batch]}
        try:
            answer = self._call(self.client.delete_objects, Bucket=self.bucket, Delete=wanted)
        except (ClientError, BotoCoreError) as error:
            failure = self._translate(error, "delete", f"{batch[0]} and others")
            if failure.transient:
                raise failure from error
            self._deletes_batches = False
            return set()
        return {item["Key"] for item in answer.get("Deleted", [])}

    def uri(self, key: str) -> str:
        """Return the ``s3://bucket/key`` URI of a key, as in the input of a job."""
        return f"s3://{self.bucket}/{key}"

    def always_multipart(self) -> R2Store:
        """Return a copy of this store that uses multipart uploads even for small objects."""
        store = copy.copy(self)
        store._multipart_above_bytes = 0
        return store

    def open_uploads(self, prefix: str) -> Sequence[str]:
        """Return the keys of up to 1,000 uploads below `prefix` that were neither completed nor aborted."""
        try:
            return multipart.list_open_uploads(self.client, self.bucket, prefix)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, "list the uploads of", prefix) from error

    def server_time(self) -> datetime:
        """Return the server's time in whole seconds. The server sends its time even if it refuses the credentials."""
        try:
            answer: Mapping[str, Any] = self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            answer = error.response
        except BotoCoreError as error:
            raise self._translate(error, "reach", "") from error
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "date" not in headers:
            raise StoreError(f"{self._endpoint} sends no Date header, so its clock cannot be compared")
        return parsedate_to_datetime(headers["date"])

    def __repr__(self) -> str:
        return f"R2Store({self._endpoint!r}, {self.bucket!r})"

    def _call(self, method: Callable[..., Any], *, counted: bool = False, **arguments: Any) -> Any:
        """Call the client. If too many writers share a key, retry with longer delays than botocore does.

        Parameters
        ----------
        counted : bool
            Whether the first request is counted already (see `requests`).
        """
        name = getattr(method, "__name__", "")
        for attempt in range(1, _THROTTLED_ATTEMPTS + 1):
            try:
                if (kind := _BILLED.get(name)) is not None and not (counted and attempt == 1):
                    requests.note(kind)
                answer = method(**arguments)
                answers.check_answer(name, answer, self._endpoint)
                return answer
            except ClientError as error:
                if failures.status_of(error) != 429 or attempt == _THROTTLED_ATTEMPTS:
                    raise
                time.sleep(self.rewrite_after_s * random.uniform(1, 1 + attempt))
        raise AssertionError("there is at least one attempt")

    def _translate(self, error: Exception, verb: str, key: str) -> StoreError:
        return failures.translate(error, verb, self.bucket, key, self._endpoint)


class _TranslatedUpload:
    """A multipart upload that raises errors of `scoreline.storage.errors`."""

    def __init__(self, store: R2Store, key: str, mode: PutMode, metadata: Mapping[str, str] | None) -> None:
        self._store, self._key, self._mode, self._metadata = store, key, mode, metadata
        self._size = 0
        with store._writing(key, mode):
            self._parts = store._open_parts(key, mode, metadata)

    def send(self, part: bytes | bytearray) -> None:
        """Send the next part (see `Upload.send`)."""
        with self._store._writing(self._key, self._mode):
            self._parts.send(part)
        self._size += len(part)

    def complete(self) -> ObjectInfo:
        """Make the object appear (see `Upload.complete`)."""
        with self._store._writing(self._key, self._mode):
            etag = self._parts.complete()
        return _info(self._key, self._size, etag, self._metadata)

    def abort(self) -> None:
        """Discard the parts (see `Upload.abort`)."""
        self._parts.abort()


def _weak(etag: str) -> str:
    """Return an ETag as proxies shorten it that change the encoding: without quotation marks and the mark ``W/``."""
    return etag.removeprefix("W/").strip('"')


def _size_of(answer: Mapping[str, Any], position: int | None) -> int | None:
    """Return the size of the object in an answer; None if the answer does not begin at the requested position."""
    if position is None:
        return int(answer["ContentLength"])
    found = re.fullmatch(r"bytes[ =]+(\d+)-\d+/(\d+)", answer["ContentRange"].strip(), re.IGNORECASE)
    return int(found[2]) if found and int(found[1]) == position else None


class _Received:
    """The bytes of an object that were received so far."""

    def __init__(self, into: Sequence[memoryview] | None) -> None:
        self.size = 0
        self._into = None if into is None else [buffer for buffer in into if len(buffer)]
        """The buffers to fill, without the bytes that have been filled already."""
        self._blocks: list[bytes] = []

    def read_from(self, body: Any, size: int) -> int:
        """Read up to `size` bytes of a body, and return their number; 0 at the end of the body."""
        if self._into is None:
            self._blocks.append(body.read(size))
            count = len(self._blocks[-1])
        else:
            count = body.readinto(self._into[0][:size])
            self._into[0] = self._into[0][count:]
            if not len(self._into[0]):
                self._into.pop(0)
        self.size += count
        return count

    def join(self) -> bytes:
        return self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)


def _condition(mode: PutMode) -> dict[str, str]:
    """Return the boto3 arguments that make a write conditional."""
    match mode:
        case "overwrite":
            return {}
        case "create":
            return {"IfNoneMatch": "*"}
        case IfMatch(etag):
            return {"IfMatch": f'"{etag}"'}
        case _:
            assert_never(mode)


def _parse_time(value: Any) -> datetime:
    """Parse a time in a response. A listing has one for each object, and dateutil takes 0.1 ms for each of them."""
    try:
        if value.endswith("Z"):
            return datetime.fromisoformat(value)
    except (AttributeError, ValueError):
        pass
    parsed: datetime = parse_timestamp(value)
    return parsed


def _check_key(key: str) -> str:
    if not key or len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidKey(f"R2 cannot hold the key {_shorten(key)!r}: a key has 1 to {_MAX_KEY_BYTES} bytes")
    return key


def _shorten(key: str) -> str:
    return key if len(key) <= 80 else f"{key[:80]}…"


def _info(
    key: str, size: int, etag: str, metadata: Mapping[str, str] | None = None, modified: float = 0.0
) -> ObjectInfo:
    return ObjectInfo(key=key, size=size, etag=etag.strip('"'), metadata=dict(metadata or {}), modified=modified)
