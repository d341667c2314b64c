"""Large objects in equal parts, visible whole or not at all, with nothing left behind.

R2 wants all parts but the last of one size, from 5 MiB, and at most 10,000 of them; it looks at Complete
(https://developers.cloudflare.com/r2/objects/multipart-objects/). The precondition is judged at Complete.
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
"""Larger objects go up in parts: what a broken connection makes us send again is then one part."""
PART_BYTES = 16 << 20
MAX_PARTS = 10_000
_THREADS = 4


def upload(
    client: S3Client,
    ask: Callable[..., Any],
    bucket: str,
    key: str,
    data: bytes,
    metadata: Mapping[str, str],
    condition: Mapping[str, str],
) -> str:
    """Upload `data` in parts and return the new object's ETag; on any way out but success the upload is aborted.

    Parameters
    ----------
    ask : callable
        ``ask(method, **arguments)`` calls the client and waits out throttling.
    condition : mapping of str to str
        Arguments that make the last request, which completes the upload, conditional. R2 takes ``IfNoneMatch`` there.
    """
    where = {"Bucket": bucket, "Key": key}
    upload_id = ask(client.create_multipart_upload, **where, Metadata=dict(metadata))["UploadId"]
    open_upload = {**where, "UploadId": upload_id}
    done = False
    try:

        def send(number: int, part: memoryview) -> dict[str, Any]:
            answer = ask(client.upload_part, **open_upload, PartNumber=number, Body=bytes(part))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")
        try:
            parts = list(pool.map(send, itertools.count(1), split(data)))
        finally:  # a dyno that is told to stop has 30 s: the abort does not wait for what is on its way
            pool.shutdown(wait=False, cancel_futures=True)
        answer = ask(client.complete_multipart_upload, **open_upload, MultipartUpload={"Parts": parts}, **condition)
        done = True
        return str(answer["ETag"])
    finally:
        if not done:
            with contextlib.suppress(Exception):  # the first failure is the one to tell; R2 aborts by itself in a week
                client.abort_multipart_upload(**open_upload)


def left_open(client: S3Client, bucket: str, prefix: str) -> list[str]:
    """Return the keys below `prefix` whose upload was begun and neither completed nor aborted, a thousand at most."""
    answer = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def split(data: bytes) -> Iterator[memoryview]:
    """Yield equal parts and a smaller last one; the parts grow where there would be more than R2 takes."""
    size = max(PART_BYTES, -(-len(data) // MAX_PARTS))
    view = memoryview(data)
    for start in range(0, len(data), size):
        yield view[start : start + size]
