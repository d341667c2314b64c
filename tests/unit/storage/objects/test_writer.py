"""A writer stores an object of any size in parts of equal size, completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from scoreline.storage.errors import PreconditionFailed
from scoreline.storage.objects import writer
from scoreline.storage.objects.base import CREATE, OVERWRITE, ObjectInfo, PutMode, Upload
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.objects.writer import ObjectWriter

MIB = 1 << 20


class Noting(DirectoryStore):
    """A store that records the sizes of parts, and the keys of objects that were written at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "data")
        self.parts: list[int] = []
        self.puts: list[str] = []

    def put(
        self, key: str, data: bytes, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        self.puts.append(key)
        return super().put(key, data, mode=mode, metadata=metadata)

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        upload = super().open_upload(key, mode=mode, metadata=metadata)
        if key in self.puts:
            return upload
        send = upload.send

        def noted(part: bytes | bytearray) -> None:
            self.parts.append(len(part))
            send(part)

        upload.send = noted  # type: ignore[method-assign]
        return upload


@pytest.fixture
def store(tmp_path: Path) -> Noting:
    return Noting(tmp_path)


def files_in(store: Noting, tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("pieces", [[1], [0, 5, 0], [8 * MIB], [3 * MIB, 5 * MIB]])
def test_what_fits_into_one_part_is_written_by_one_request(store: Noting, pieces: list[int]) -> None:
    with ObjectWriter(store, "k", metadata={"a": "b"}) as out:
        for size in pieces:
            out.write(bytes(size))
        out.complete()
    assert (store.puts, store.parts) == (["k"], [])
    assert (store.head("k").size, store.head("k").metadata) == (sum(pieces), {"a": "b"})


@pytest.mark.parametrize("pieces", [[8 * MIB + 1], [MIB] * 17, [40 * MIB], [5 * MIB, 20 * MIB, 1]])
def test_all_parts_but_the_last_are_equal_and_large_enough_for_r2(store: Noting, pieces: list[int]) -> None:
    data = b"".join(bytes([number]) * size for number, size in enumerate(pieces))
    start = 0
    with ObjectWriter(store, "k", mode=CREATE) as out:
        for size in pieces:
            out.write(data[start : start + size])
            start += size
        info = out.complete()
    assert set(store.parts[:-1]) == {8 * MIB}
    assert 0 < store.parts[-1] <= 8 * MIB
    assert (store.get("k").data == data, info.size) == (True, len(data))


def test_parts_grow_so_that_there_are_at_most_ten_thousand(store: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MAX_PARTS", 2)
    with ObjectWriter(store, "k", size=24 * MIB + 1) as out:
        out.write(bytes(24 * MIB + 1))
        out.complete()
    assert store.parts == [12 * MIB + 1, 12 * MIB]


@pytest.mark.parametrize("size", [1, 9 * MIB])
@pytest.mark.parametrize("failure", [OSError("disk"), KeyboardInterrupt(), SystemExit(143)])
def test_a_writer_that_is_interrupted_leaves_nothing(
    store: Noting, tmp_path: Path, size: int, failure: BaseException
) -> None:
    def interrupted() -> None:
        with ObjectWriter(store, "k") as out:
            out.write(bytes(size))
            raise failure

    with pytest.raises(type(failure)):
        interrupted()
    assert files_in(store, tmp_path) == []


@pytest.mark.parametrize("size", [1, 9 * MIB])
def test_an_object_that_exists_already_is_not_replaced(store: Noting, tmp_path: Path, size: int) -> None:
    store.put("k", b"before")
    with ObjectWriter(store, "k", mode=CREATE) as out:
        out.write(bytes(size))
        with pytest.raises(PreconditionFailed):
            out.complete()
    assert store.get("k").data == b"before"
    assert files_in(store, tmp_path) == ["k"]
