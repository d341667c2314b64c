"""All bytes of a model are verified, and no byte can be read before it is verified."""

from __future__ import annotations

import io
from pathlib import Path

import joblib
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import ModelCorrupt, ModelUnloadable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.bundle import ModelLoader, dump, unpickle
from scoreline.storage.models.manifest import Artifact, Manifest
from scoreline.storage.models.stream import ObjectSource, VerifiedReader
from scoreline.storage.objects.directory import DirectoryStore

DATA = bytes(range(200))


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path, "data")


def artifact(data: bytes, chunk_bytes: int = 10) -> Artifact:
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    return Artifact(
        role="model",
        name="model",
        file="model.joblib",
        size=len(data),
        sha256=sha256_hex(data),
        chunk_bytes=chunk_bytes,
        chunks=tuple(map(sha256_hex, chunks)),
    )


@pytest.mark.parametrize("place", [0, 9, 10, 105, 199])
def test_no_byte_of_an_altered_chunk_is_read(store: DirectoryStore, place: int) -> None:
    store.put("m", DATA[:place] + b"\xff" + DATA[place + 1 :])
    read = bytearray()

    def read_all() -> None:
        with VerifiedReader(ObjectSource(store, "m", len(DATA)), artifact(DATA)) as raw:
            while piece := raw.read(7):
                read.extend(piece)

    with pytest.raises(ModelCorrupt, match=f"chunk {place // 10} of s3://data/m differs"):
        read_all()
    assert bytes(read) == DATA[: place // 10 * 10]


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:50], b"", DATA + b"more"])
def test_an_object_of_another_size_is_refused_before_a_byte_is_read(store: DirectoryStore, data: bytes) -> None:
    store.put("m", data)
    raw = VerifiedReader(ObjectSource(store, "m", len(DATA)), artifact(DATA))
    with pytest.raises(ModelCorrupt, match=f"has {len(data)} bytes, but its manifest says 200"), raw:
        raw.read(1)


def test_an_object_that_is_replaced_while_it_is_read_is_refused_as_such(store: DirectoryStore) -> None:
    # Given an object with more chunks than are prefetched
    store.put("m", DATA)
    with VerifiedReader(ObjectSource(store, "m", len(DATA)), artifact(DATA)) as raw:
        assert raw.read(1) == DATA[:1]
        store.put("m", DATA)
        with pytest.raises(ModelCorrupt, match="was replaced or truncated while it was read"):
            raw.drain()


def manifest(data: bytes) -> Manifest:
    return Manifest(
        name="m",
        version="20260101T000000Z-00000",
        created="",
        artifacts=(artifact(data, 1000),),
        feature_names=("x",),
        n_features=1,
        outputs={},
        libraries={},
        memory_bytes=0,
    )


def test_bytes_behind_the_end_of_a_pickle_are_refused_even_if_the_manifest_has_them(store: DirectoryStore) -> None:
    sound = dump(LinearRegression())
    for data in (sound, sound + b"and more"):
        made = manifest(data)
        store.put(keys.artifact("m", made.version, "model.joblib"), data)
        if data == sound:
            assert isinstance(ModelLoader(store=store).load(made, "d").models["model"], LinearRegression)
        else:
            with pytest.raises(ModelCorrupt, match="has bytes after the end of its pickle"):
                ModelLoader(store=store).load(made, "d")


def test_a_model_of_another_scikit_learn_is_loaded_only_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("sklearn.base.__version__", "1.0.2")
        sink = io.BytesIO()
        joblib.dump(LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0]), sink)
    with pytest.raises(ModelUnloadable, match=r"was saved by scikit-learn 1\.0\.2"):
        unpickle(io.BytesIO(sink.getvalue()), "m")
    assert unpickle(io.BytesIO(sink.getvalue()), "m", allow_version_skew=True)[1] == "1.0.2"
