"""The bytes of a file to publish are passed on in pieces, and a change while they are read is noticed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from scoreline.storage.errors import InvalidRequest, PreconditionFailed
from scoreline.storage.models.contents import FileOnDisk, InMemory, Pickled, StoredFile, open_file
from scoreline.storage.models.digests import ChunkDigests
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.objects.directory import DirectoryStore

DATA = np.random.default_rng(0).bytes(9_000_001)


def read(content: Any) -> bytes:
    pieces: list[bytes] = []
    content.copy_to(pieces.append)
    assert max(map(len, pieces), default=0) <= 4 << 20
    return b"".join(pieces)


def test_all_bytes_are_passed_on_in_order(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    info = store.put("m", DATA)
    (tmp_path / "m").write_bytes(DATA)
    for content in (InMemory(DATA), open_file(tmp_path / "m"), StoredFile(store, info)):
        assert (read(content) == DATA, content.size) == (True, len(DATA))


def test_an_object_is_encoded_to_the_bytes_that_joblib_writes() -> None:
    rng = np.random.default_rng(0)
    model = RandomForestClassifier(5).fit(rng.random((200, 3)), rng.integers(0, 2, 200))
    for obj in (model, {"a": rng.random(700_000), "b": ["x"] * 5}):
        buffer = io.BytesIO()
        joblib.dump(obj, buffer)
        pieces: list[bytes] = []
        Pickled(obj).copy_to(pieces.append)
        assert b"".join(pieces) == buffer.getvalue()


@pytest.mark.parametrize("change", ["longer", "shorter", "same size"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m.joblib"
    path.write_bytes(DATA)
    os.utime(path, ns=(1, 1))  # a clock that is coarser than this test must not hide the change
    pieces: list[bytes] = []

    def receive(piece: bytes) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            with path.open("r+b") as file:
                if change == "shorter":
                    file.truncate(4 << 20)
                else:
                    file.seek(-1 if change == "same size" else 0, os.SEEK_END)
                    file.write(b"x")

    with pytest.raises(InvalidRequest, match=r"m\.joblib was changed while it was read, so nothing was published"):
        FileOnDisk(path).copy_to(receive)


def test_an_object_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    content = StoredFile(store, store.put("m", DATA))
    store.put("m", DATA)
    with pytest.raises(InvalidRequest, match="s3://data/m was replaced while it was read, so nothing was published"):
        content.copy_to(lambda piece: None)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.joblib"
    path.write_bytes(DATA)
    content = open_file(path)
    path.unlink()
    for use in (lambda: content.size, lambda: read(content)):
        with pytest.raises(InvalidRequest, match=r"cannot read .*m\.joblib: No such file or directory"):
            use()


def test_a_failure_of_the_destination_is_not_taken_for_a_change_of_the_source(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    content = StoredFile(store, store.put("m", DATA))

    def refuse(piece: bytes) -> None:
        raise PreconditionFailed("the upload is gone")

    with pytest.raises(PreconditionFailed, match="the upload is gone"):
        content.copy_to(refuse)


def test_a_pipe_can_be_published(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"bytes")
    os.close(writing)
    assert open_file(Path(f"/dev/fd/{reading}")) == InMemory(b"bytes")


@pytest.mark.parametrize("size", [0, 1, 4 << 20, len(DATA)])
@pytest.mark.parametrize("piece", [1_000_003, 20 << 20])
def test_digests_do_not_depend_on_the_pieces(size: int, piece: int) -> None:
    data, seen = DATA[:size], []
    with ChunkDigests(lambda number, digest, chunk: seen.append((number, len(chunk)))) as digests:
        for start in range(0, size, piece):
            digests.write(data[start : start + piece])
        found = digests.artifact("model", "model")
    assert found == Artifact.of("model", "model", data)
    assert seen == [(number, min(4 << 20, size - number * (4 << 20))) for number in range(len(found.chunks))]
