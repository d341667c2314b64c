"""Converts errors of boto3 to errors of `scoreline.storage.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoreline.storage.errors import (
    AccessDenied,
    BucketNotFound,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    one_line,
)
from scoreline.storage.objects import answers

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
_UPLOAD_GONE = "NoSuchUpload"


def translate(error: Exception, verb: str, bucket: str, key: str, endpoint: str) -> StoreError:
    """Return the error to raise in place of an error of boto3. An error of Scoreline is returned as it is.

    Parameters
    ----------
    verb : str
        What failed, such as ``read``.
    bucket, key : str
        The object, or the beginning of the keys that were to be listed.
    """
    uri = f"s3://{bucket}/{key}"
    action = f"{verb} {uri} at {endpoint}"
    if isinstance(error, StoreError):
        return error
    answer = _answer(error)
    if answer is None:
        return StoreUnavailable(f"cannot {action}: {one_line(error)}")
    code = str(answer.get("Error", {}).get("Code", ""))
    status = status_of(error)
    if code == _UPLOAD_GONE:  # perhaps the response to an earlier successful attempt was lost
        return PreconditionFailed(f"{uri} may have been written already: its upload is closed")
    if code == "NoSuchBucket":
        return no_bucket(bucket, endpoint)
    if code in _NOT_FOUND:
        return ObjectNotFound(f"no object {uri}")
    if status in (409, 412) or code in ("PreconditionFailed", "ConditionalRequestConflict"):
        return PreconditionFailed(f"{uri} already exists, or was changed since it was read")
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"cannot {action}: the credentials were refused ({code or status}): check the key and its rights"
        )
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if status == 429 or (status >= 500 and code != "NotImplemented"):
        return StoreUnavailable(f"cannot {action}: the server answered {answers.status_of(code, status, headers)}")
    if status == 416:
        return PreconditionFailed(f"{uri} is shorter than it was when it was read")
    return StoreError(f"cannot {action}: the server answered {answers.status_of(code, status, headers)}")


def status_of(error: Exception) -> int:
    """Return the HTTP status of the answer from the server; 0 if there was no answer."""
    return int((_answer(error) or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer(error: Exception) -> Mapping[str, Any] | None:
    """Return the answer that boto3 has parsed; None if there was none, for example because the connection failed."""
    found = getattr(error, "response", None)
    return found if isinstance(found, Mapping) else None


def no_bucket(bucket: str, endpoint: str) -> BucketNotFound:
    """Return the error for a bucket that does not exist."""
    return BucketNotFound(f"no bucket {bucket!r} at {endpoint}: create it, or correct its name or R2_ENDPOINT_URL")
