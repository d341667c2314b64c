"""Multipart uploads: a large object appears completely or not at all, and a failed upload leaves nothing behind.

R2 allows at most 10,000 parts. All parts except the last must have the same size, which is at least 5 MiB
(https://developers.cloudflare.com/r2/objects/multipart-objects/). R2 checks these rules, and the condition of the
write, when the upload is completed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

THRESHOLD_BYTES = 64 << 20
"""Objects larger than this are uploaded in parts. If a connection breaks, only one part must be sent again."""
PART_BYTES = 16 << 20
MAX_PARTS = 10_000
_THREADS = 4


class PartsUpload:
    """An upload under way, whose parts are sent by several threads.

    Parameters
    ----------
    call : callable
        ``call(method, **arguments)`` calls a method of the client and retries if it is throttled.
    condition : mapping of str to str
        Arguments that add a condition to the request that completes the upload. R2 supports ``IfNoneMatch`` there.
    """

    def __init__(
        self,
        client: S3Client,
        call: Callable[..., Any],
        bucket: str,
        key: str,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> None:
        self._client, self._call, self._condition = client, call, condition
        where = {"Bucket": bucket, "Key": key}
        upload_id = call(client.create_multipart_upload, **where, Metadata=dict(metadata))["UploadId"]
        self._upload = {**where, "UploadId": upload_id}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")
        self._sending = deque[Future[dict[str, Any]]]()
        self._sent: list[dict[str, Any]] = []
        self._completed = False

    def send(self, part: bytes | bytearray) -> None:
        """Send the next part in the background. If as many parts as threads are being sent, wait for the oldest."""
        if len(self._sending) == _THREADS:
            self._sent.append(self._sending.popleft().result())
        number = len(self._sent) + len(self._sending) + 1
        self._sending.append(self._pool.submit(self._send, number, part))

    def complete(self) -> str:
        """Wait for all parts, make the object appear, and return its ETag."""
        while self._sending:
            self._sent.append(self._sending.popleft().result())
        parts = {"Parts": self._sent}
        answer = self._call(
            self._client.complete_multipart_upload, **self._upload, MultipartUpload=parts, **self._condition
        )
        self._completed = True
        self._pool.shutdown()
        return str(answer["ETag"])

    def abort(self) -> None:
        """Discard all parts, unless the upload is completed."""
        if self._completed:
            return
        self._completed = True
        # A dyno must stop within 30 s, so do not wait for parts that are still being sent.
        self._pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(Exception):  # report only the first error; R2 aborts the upload after a week anyway
            self._client.abort_multipart_upload(**self._upload)

    def _send(self, number: int, part: bytes | bytearray) -> dict[str, Any]:
        answer = self._call(self._client.upload_part, **self._upload, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"]}


def upload(opened: PartsUpload, data: bytes) -> str:
    """Upload `data` in parts and return the ETag of the new object. If anything goes wrong, abort the upload."""
    try:
        for part in split_into_parts(data):
            opened.send(bytes(part))
        return opened.complete()
    finally:
        opened.abort()


def list_open_uploads(client: S3Client, bucket: str, prefix: str) -> list[str]:
    """Return the keys of up to 1,000 uploads below `prefix` that were neither completed nor aborted."""
    answer = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def split_into_parts(data: bytes) -> Iterator[memoryview]:
    """Yield the parts of an upload, all of equal size except the last, which may be smaller.

    The size is `PART_BYTES`, or more if there would otherwise be more than `MAX_PARTS` parts.
    """
    size = max(PART_BYTES, -(-len(data) // MAX_PARTS))
    view = memoryview(data)
    for start in range(0, len(data), size):
        yield view[start : start + size]
