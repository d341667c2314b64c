"""How the two embedded S3 servers differ. docs/explanation/embedded-s3-servers.md has the same table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack
from tests.support.s3 import settings_of


@pytest.fixture
def key(tmp_path: Path) -> str:
    return f"differences/{tmp_path.name}/k"


def _twice(client: Any, key: str) -> None:
    client.put_object(Bucket="scoreline", Key=key)
    client.put_object(Bucket="scoreline", Key=key)


def _small_parts(client: Any, key: str) -> None:
    upload = {"Bucket": "scoreline", "Key": key}
    upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
    parts = [
        {"PartNumber": number, "ETag": client.upload_part(**upload, PartNumber=number, Body=b"1")["ETag"]}
        for number in (1, 2)
    ]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


def _by_a_stranger(client: Any, key: str) -> None:
    settings = R2Settings(endpoint_url=client.meta.endpoint_url, access_key_id="stranger", secret_access_key="s")
    R2Store(settings, "scoreline").client.put_object(Bucket="scoreline", Key=key)


DIFFERENCES: dict[str, tuple[Callable[[Any, str], object], str, str]] = {
    "an unknown key id": (_by_a_stranger, "", "InvalidAccessKeyId"),
    "a second write to a key within a second": (_twice, "TooManyRequests", ""),
    "parts of less than 5 MiB": (_small_parts, "InvalidPart", "EntityTooSmall"),
    "a content encoding": (
        lambda client, key: client.put_object(Bucket="scoreline", Key=key, ContentEncoding="gzip"),
        "InvalidArgument",
        "",
    ),
    "more than 8,192 bytes of metadata": (
        lambda client, key: client.put_object(Bucket="scoreline", Key=key, Metadata={"m": "m" * 8192}),
        "MetadataTooLarge",
        "",
    ),
    "more than 255 bytes between two slashes": (
        lambda client, key: client.put_object(Bucket="scoreline", Key=f"{key}/{'k' * 256}"),
        "",
        "KeyTooLongError",
    ),
    "a folder named .. in a key": (
        lambda client, key: client.put_object(Bucket="scoreline", Key=f"{key}/../k"),
        "",
        "InvalidRequest",
    ),
    "If-Match in a bucket that does not exist": (
        lambda client, key: client.put_object(Bucket="no-such-bucket", Key=key, IfMatch='"e"'),
        "NoSuchBucket",
        "PreconditionFailed",
    ),
}
"""By request: the error of moto's server with `StrictR2`, and the error of SeaweedFS; an empty text means success."""


@pytest.mark.parametrize("what", DIFFERENCES)
def test_each_server_answers_as_documented(stack: Stack, seaweed: Stack, key: str, what: str) -> None:
    request, *expected = DIFFERENCES[what]
    errors = []
    for server in (stack, seaweed):
        try:
            request(R2Store(settings_of(server), "scoreline", max_attempts=1).client, key)
            errors.append("")
        except ClientError as error:
            errors.append(error.response["Error"]["Code"])
    assert errors == expected


def test_seaweedfs_lists_a_folder_before_names_that_continue_its_own(stack: Stack, seaweed: Stack, key: str) -> None:
    # Both "-" and "." come before "/", so that S3 lists "a-b" and "a.b" before "a/z"
    folder = key.rpartition("/")[0]
    for server, order in ((stack, ["a-b", "a.b", "a/z", "a0"]), (seaweed, ["a/z", "a-b", "a.b", "a0"])):
        store = R2Store(settings_of(server), "scoreline")
        for name in order:
            store.put(f"{folder}/{name}", b"1")
        assert [info.key.removeprefix(f"{folder}/") for info in store.list(f"{folder}/")] == order
