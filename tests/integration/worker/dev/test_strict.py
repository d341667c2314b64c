"""The embedded server refuses the requests that R2 refuses, and accepts all requests of the store."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from scoreline.storage.errors import PreconditionFailed, StoreError
from scoreline.storage.objects import multipart
from scoreline.storage.objects.base import CREATE
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack

MIB = 1 << 20


@pytest.fixture
def raw(stack: Stack) -> Any:
    """A boto3 client with default settings and no retries."""
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client(
        "s3",
        endpoint_url=stack.environ["R2_ENDPOINT_URL"],
        aws_access_key_id="k",
        aws_secret_access_key="s",
        region_name="auto",
        config=config,
    )


@pytest.fixture
def patient(stack: Stack) -> R2Store:
    settings = R2Settings(endpoint_url=stack.environ["R2_ENDPOINT_URL"], access_key_id="k", secret_access_key="s")
    return R2Store(settings, "scoreline")


@pytest.fixture
def hasty(stack: Stack) -> R2Store:
    """A store whose boto3 client does not retry by itself."""
    settings = R2Settings(endpoint_url=stack.environ["R2_ENDPOINT_URL"], access_key_id="k", secret_access_key="s")
    return R2Store(settings, "scoreline", max_attempts=1)


def refused(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def open_uploads(raw: Any) -> list[str]:
    return [
        upload["Key"] for upload in raw.list_multipart_uploads(Bucket="scoreline", Prefix="strict/").get("Uploads", [])
    ]


def test_a_second_write_within_a_second_is_refused_and_the_store_waits(raw: Any, hasty: R2Store) -> None:
    raw.put_object(Bucket="scoreline", Key="strict/twice", Body=b"1")
    with pytest.raises(ClientError) as error:
        raw.put_object(Bucket="scoreline", Key="strict/twice", Body=b"2")
    assert refused(error) == (429, "TooManyRequests")
    hasty.put("strict/twice", b"3")
    assert hasty.get("strict/twice").data == b"3"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "aws-chunked"},
        {"x-amz-trailer": "x-amz-checksum-crc32"},
        {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
    ],
)
def test_chunked_bodies_and_trailers_are_refused(raw: Any, headers: dict[str, str]) -> None:
    raw.meta.events.register("before-send.s3.PutObject", lambda request, **_: request.headers.update(headers))
    with pytest.raises(ClientError) as error:
        raw.put_object(Bucket="scoreline", Key="strict/chunked", Body=b"1")
    assert refused(error) == (501, "NotImplemented")


@pytest.mark.parametrize("sizes", [(5 * MIB, 6 * MIB, MIB), (MIB, MIB), (5 * MIB, 6 * MIB)])
def test_unequal_or_small_parts_are_refused(raw: Any, sizes: tuple[int, ...]) -> None:
    where = {"Bucket": "scoreline", "Key": f"strict/unequal-{len(sizes)}-{sizes[0]}"}
    upload = {**where, "UploadId": raw.create_multipart_upload(**where)["UploadId"]}
    parts = [
        {"PartNumber": n, "ETag": raw.upload_part(**upload, PartNumber=n, Body=bytes(size))["ETag"]}
        for n, size in enumerate(sizes, 1)
    ]
    with pytest.raises(ClientError) as error:
        raw.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert refused(error) == (400, "InvalidPart")
    raw.abort_multipart_upload(**upload)


def test_a_large_object_is_uploaded_in_equal_parts_and_leaves_no_upload_open(raw: Any, patient: R2Store) -> None:
    data = b"".join(number.to_bytes(4, "big") * (MIB // 4) for number in range(multipart.THRESHOLD_BYTES // MIB + 3))
    put = patient.put("strict/large", data, mode=CREATE, metadata={"part": "7"})
    assert "-" in put.etag  # uploaded in several parts
    got = patient.get("strict/large")
    assert (got.data == data, got.info.metadata, got.info.etag) == (True, {"part": "7"}, put.etag)
    with pytest.raises(PreconditionFailed):
        patient.put("strict/large", data + b"other", mode=CREATE)
    assert patient.head("strict/large").etag == put.etag
    assert open_uploads(raw) == []


@pytest.mark.parametrize("failure", [SystemExit(0), OSError("disk"), KeyboardInterrupt()])
def test_an_interrupted_upload_is_aborted(
    raw: Any, patient: R2Store, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    upload_part = patient.client.upload_part
    calls = []

    def interrupted(**arguments: Any) -> Any:
        calls.append(arguments["PartNumber"])
        if len(calls) == 3:
            raise failure
        return upload_part(**arguments)

    monkeypatch.setattr(patient.client, "upload_part", interrupted)
    with pytest.raises(type(failure)):
        patient.put("strict/interrupted", bytes(multipart.THRESHOLD_BYTES + 1))
    assert open_uploads(raw) == []
    with pytest.raises(StoreError):
        patient.head("strict/interrupted")


def test_parts_are_equal_and_grow_so_that_r2_accepts_their_number() -> None:
    sizes = [len(part) for part in multipart.split_into_parts(bytes(3 * multipart.PART_BYTES + 5))]
    assert sizes == [multipart.PART_BYTES] * 3 + [5]
