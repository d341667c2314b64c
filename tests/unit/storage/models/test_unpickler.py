"""Arrays are read as joblib reads them, but their bytes are not copied."""

from __future__ import annotations

import io
import pickle
from typing import Any

import joblib
import numpy as np
import pytest

from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.digests import ChunkDigests
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.models.stream import VerifiedReader
from scoreline.storage.models.unpickler import LoadFailed, load

RANDOM = np.random.default_rng(3)
TABLE = np.zeros(3_000, [("number", np.int64), ("value", np.float64), ("mark", np.uint8)])
TABLE["value"] = RANDOM.normal(size=len(TABLE))
ARRAYS: dict[str, Any] = {
    "numbers": RANDOM.normal(size=(400, 30)),
    "columns": np.asfortranarray(RANDOM.normal(size=(400, 30))),
    "three dimensions": RANDOM.normal(size=(20, 30, 40)).transpose(2, 1, 0),
    "every second": np.arange(100_000)[::2],
    "a table": TABLE,
    "another byte order": np.arange(1_000, dtype=">i4"),
    "one number": np.array(7.5),
    "no number": np.empty((0, 4)),
    "times": np.array(["2026-11-29", "NaT"], "datetime64[s]"),
    "texts": np.array(["a", "bc"]),
    "objects": np.array([{"a": 1}, None, np.arange(3)], dtype=object),
    "masked": np.ma.masked_array([1, 2, 3], [False, True, False]),
}


def dump(obj: Any, compress: Any = 0) -> bytes:
    sink = io.BytesIO()
    joblib.dump(obj, sink, compress=compress)
    return sink.getvalue()


class Stored:
    """Bytes that are read like an object of a store."""

    uri = "s3://data/m"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


def describe(data: bytes) -> Artifact:
    with ChunkDigests() as digests:
        digests.write(data)
        return digests.artifact("model", "m")


def as_text(obj: Any) -> str:
    """Return all properties of arrays that code may depend on."""
    arrays = [obj] if isinstance(obj, np.ndarray) else obj
    return repr([(type(a), a.dtype, a.shape, a.strides, a.flags.writeable, values_of(a)) for a in arrays])


def values_of(array: Any) -> Any:
    """Return the values of an array as objects, or as bytes if there are a million."""
    return array.tolist() if array.size < 1_000_000 else sha256_hex(array.tobytes())


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("compress", [0, 3, ("lzma", 1)])
def test_an_array_is_read_as_joblib_reads_it(name: str, compress: Any) -> None:
    data = dump(ARRAYS[name], compress)
    found = load(io.BytesIO(data))
    assert as_text(found) == as_text(joblib.load(io.BytesIO(data), ensure_native_byte_order=True))


def test_arrays_are_read_from_verified_chunks_and_from_plain_pickles() -> None:
    arrays = [*ARRAYS.values(), RANDOM.normal(size=1_200_000)]  # the last one is in three chunks
    data = dump(arrays)
    with VerifiedReader(Stored(data), describe(data)) as raw:
        buffered = io.BufferedReader(raw, 1 << 16)
        found = load(buffered)
        assert not buffered.read(1)
    expected = joblib.load(io.BytesIO(data), ensure_native_byte_order=True)
    assert as_text(found) == as_text(expected)
    assert as_text(load(io.BytesIO(pickle.dumps(arrays)))) == as_text(pickle.loads(pickle.dumps(arrays)))


@pytest.mark.parametrize("left", [2, 100, 80_000])
def test_a_stream_that_ends_within_an_array_is_refused(left: int) -> None:
    data = dump(RANDOM.normal(size=20_000))
    with pytest.raises(LoadFailed, match="EOF: reading array data, expected 160000 bytes got"):
        load(io.BytesIO(data[:-left]))


class Counting(io.BytesIO):
    """A file that counts the bytes that were read into objects of their own."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_the_bytes_of_an_array_are_not_read_into_another_object_first() -> None:
    file = Counting(dump(RANDOM.normal(size=100_000)))
    assert len(load(file)) == 100_000
    assert 0 < file.count < 1_000
