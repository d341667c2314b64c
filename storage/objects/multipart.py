"""Multipart uploads: a large object appears completely or not at all, and a failed upload leaves nothing behind.

R2 allows at most 10,000 parts. All parts except the last must have the same size, which is at least 5 MiB
(https://developers.cloudflare.com/r2/objects/multipart-objects/). R2 checks these rules, and the condition of the
write, when the upload is completed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

THRESHOLD_BYTES = 64 << 20
"""Objects larger than this are uploaded in parts. If a connection breaks, only one part must be sent again."""
PART_BYTES = 16 << 20
MAX_PARTS = 10_000
_THREADS = 4


def upload(
    client: S3Client,
    call: Callable[..., Any],
    bucket: str,
    key: str,
    data: bytes,
    metadata: Mapping[str, str],
    condition: Mapping[str, str],
) -> str:
    """Upload `data` in parts and return the ETag of the new object. If anything goes wrong, abort the upload.

    Parameters
    ----------
    call : callable
        ``call(method, **arguments)`` calls a method of the client and retries if it is throttled.
    condition : mapping of str to str
        Arguments that add a condition to the request that completes the upload. R2 supports ``IfNoneMatch`` there.
    """
    where = {"Bucket": bucket, "Key": key}
    upload_id = call(client.create_multipart_upload, **where, Metadata=dict(metadata))["UploadId"]
    open_upload = {**where, "UploadId": upload_id}
    completed = False
    try:

        def send(number: int, part: memoryview) -> dict[str, Any]:
            answer = call(client.upload_part, **open_upload, PartNumber=number, Body=bytes(part))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")
        try:
            parts = list(pool.map(send, itertools.count(1), split_into_parts(data)))
        finally:  # a dyno must stop within 30 s, so do not wait for parts that are still being sent
            pool.shutdown(wait=False, cancel_futures=True)
        answer = call(client.complete_multipart_upload, **open_upload, MultipartUpload={"Parts": parts}, **condition)
        completed = True
        return str(answer["ETag"])
    finally:
        if not completed:
            with contextlib.suppress(
                Exception
            ):  # report only the first error; R2 aborts the upload after a week anyway
                client.abort_multipart_upload(**open_upload)


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
