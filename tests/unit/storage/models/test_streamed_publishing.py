"""A large file is published in one pass, and nothing of it is there unless all of it was verified."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ModelUnloadable, StoreUnavailable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import manager, publisher, signatures
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.contents import InMemory, Pickled, StoredFile
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.models.stream import READ_AHEAD
from scoreline.storage.models.trial_load import NewArtifact, TrialHere, TrialLoad
from scoreline.storage.objects.base import OVERWRITE, ObjectInfo, PutMode, StoredObject, Upload
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.testing import eager
from tests.support.one_model import LINE
from tests.support.proving import try_loading
from tests.support.waiting import HANG_S

MIB = 1 << 20


def large(size: int = 20 * MIB) -> Any:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    model.payload = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return model


LARGE = dump(large())


@dataclass(frozen=True)
class Counted:
    """Content that counts how often it was read, and may be other bytes from the second time on."""

    data: bytes
    then: bytes = b""
    recorded_sha256: str | None = None
    reads: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        self.reads.append(1)
        InMemory(self.then if self.then and len(self.reads) > 1 else self.data).copy_to(write)


class Watched(DirectoryStore):
    """A store that records what happens to uploads, and may fail after some parts or damage a part."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "data")
        self.done: list[str] = []
        self.parts_until_failure = 1_000
        self.damages = False
        self.open = self.most_open = 0
        self.read_back = threading.Event()
        self.fails_at = ""
        self.answers_are_lost = False
        self.has_etags_of_s3 = False
        self.reads = 0

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        upload = super().open_upload(key, mode=mode, metadata=metadata)
        if not key.endswith(".joblib"):
            return upload
        send, complete, abort = upload.send, upload.complete, upload.abort
        received: list[bytes] = []
        self.open += 1
        self.most_open = max(self.most_open, self.open)

        def noted_send(part: bytes | bytearray) -> None:
            self.done.append("part")
            if self.done.count("part") > self.parts_until_failure:
                raise StoreUnavailable("the store is gone")
            part = part[::-1] if self.damages else part
            received.append(hashlib.md5(part).digest())
            send(part)

        def noted_complete() -> Any:
            self.done.append("complete")
            self.open -= 1
            info = complete()
            etag = f"{hashlib.md5(b''.join(received)).hexdigest()}-{len(received)}"
            return replace(info, etag=etag) if self.has_etags_of_s3 else info

        def noted_abort() -> None:
            self.done.append("abort")
            abort()

        upload.send, upload.complete, upload.abort = noted_send, noted_complete, noted_abort  # type: ignore[method-assign]
        return upload

    def put(
        self, key: str, data: bytes, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        if self.fails_at and key.endswith(self.fails_at):
            if self.answers_are_lost:
                super().put(key, data, mode=mode, metadata=metadata)
            raise StoreUnavailable("the store is gone")
        return super().put(key, data, mode=mode, metadata=metadata)

    def get(self, key: str, **options: Any) -> StoredObject:
        found = super().get(key, **options)
        self.reads += key.endswith(".joblib")
        if key.endswith(".joblib") and (options.get("byte_range") or (0, 0))[1] >= found.info.size:
            self.read_back.set()
        return found


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, store: Watched) -> Iterator[list[str]]:
    """Try bundles in this process, and return what the trials receive and what the store has done by then."""
    seen: list[str] = []

    class Noting(TrialHere):
        def send(self, data: bytes) -> None:
            seen.append("chunk")
            super().send(data)

        def result(self) -> TrialLoad:
            assert store.read_back.wait(HANG_S)  # which does not wait for this result
            seen.append(f"result after {store.done.count('part')} parts, {store.done.count('complete')} complete")
            return super().result()

        def close(self) -> None:
            seen.append("close")

    monkeypatch.setattr(publisher, "open_trial", Noting)
    yield seen
    assert seen.count("close") <= 1


def publish(store: DirectoryStore, content: Any, **more: str) -> Manifest:
    return Publisher(store).publish(
        "m", [NewArtifact(role="model", name="model", data=content, source="f", **more)], {}
    )


def left(store: Watched, tmp_path: Path) -> list[str]:
    """Return the names of the files in the store, without the audit, which has a line for each attempt."""
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    return [path.name for path in found if "audit" not in path.relative_to(tmp_path).parts]


def test_each_byte_is_read_once_and_read_back_before_the_trial_ends(store: Watched, trials: list[str]) -> None:
    content = Counted(LARGE)
    manifest = publish(store, content)
    assert len(content.reads) == 1
    assert trials == ["chunk"] * 6 + ["result after 3 parts, 1 complete", "close"]
    assert store.get(keys.artifact("m", manifest.version, "model.joblib")).data == LARGE
    assert manifest.artifacts[0].sha256 == sha256_hex(LARGE)


@pytest.mark.parametrize("data", [LARGE[:-400], LARGE + b"more", b"\xff" + LARGE], ids=["cut", "longer", "no pickle"])
def test_nothing_is_stored_if_the_trial_fails(store: Watched, trials: list[str], tmp_path: Path, data: bytes) -> None:
    with pytest.raises((ModelUnloadable, InvalidRequest)):
        publish(store, data)
    assert store.done == ["part", "part", "part", "complete", "abort"]
    assert left(store, tmp_path) == []


def test_nothing_is_stored_if_the_store_fails_during_the_upload(
    store: Watched, trials: list[str], tmp_path: Path
) -> None:
    store.parts_until_failure = 1
    with pytest.raises(StoreUnavailable, match="the store is gone"):
        publish(store, LARGE)
    assert (store.done[-1], trials[-1]) == ("abort", "close")
    assert left(store, tmp_path) == []


def test_a_file_is_not_read_back_if_the_etag_proves_what_the_store_received(store: Watched, trials: list[str]) -> None:
    store.has_etags_of_s3 = True
    store.read_back.set()
    seen: list[tuple[str, int]] = []
    manifest = Publisher(store).publish("m", files(2), {}, lambda step, done, _: seen.append((step, done)))
    assert store.reads == 0
    assert seen[-1] == ("verifying", 2 * len(LARGE))
    assert store.get(keys.artifact("m", manifest.version, "m1.joblib")).data == LARGE


@pytest.mark.parametrize("has_etags_of_s3", [False, True])
def test_a_part_that_was_damaged_on_the_way_is_noticed_before_the_version_exists(
    store: Watched, trials: list[str], tmp_path: Path, has_etags_of_s3: bool
) -> None:
    store.damages, store.has_etags_of_s3 = True, has_etags_of_s3
    store.read_back.set()
    with pytest.raises(ModelCorrupt, match=r"chunk 0 of .* differs"):
        publish(store, LARGE)
    assert left(store, tmp_path) == []


def files(number: int) -> list[NewArtifact]:
    return [NewArtifact(role="model", name=f"m{one}", data=LARGE, source="f") for one in range(number)]


def test_the_uploads_and_threads_at_a_time_do_not_depend_on_the_number_of_files(
    store: Watched, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    send = TrialHere.send

    def counted(self: TrialHere, data: bytes) -> None:
        threads.append(threading.active_count())
        send(self, data)

    monkeypatch.setattr(TrialHere, "send", counted)
    before = threading.active_count()
    Publisher(store).publish("m", files(9), {})
    assert store.done.count("complete") == 9
    assert store.most_open <= 2
    # the file before is read back by 4 threads, and there are 3 that hash, compute the ETag, and complete
    assert max(threads) <= before + READ_AHEAD + 3


@pytest.mark.parametrize("damage", [False, True])
def test_the_files_before_the_one_that_fails_are_deleted(
    store: Watched, trials: list[str], tmp_path: Path, damage: bool
) -> None:
    if damage:
        store.parts_until_failure = 4
    last = NewArtifact(role="model", name="last", data=LARGE[:-400], source="f")
    with pytest.raises(StoreUnavailable if damage else ModelUnloadable):
        Publisher(store).publish("m", [*files(2), last], {})
    assert "complete" in store.done
    assert left(store, tmp_path) == []


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("fails_at", "kept"), [("data.txt", False), ("manifest.sig", False), ("manifest.json", True)])
def test_files_are_deleted_only_if_the_version_cannot_exist(
    store: Watched, trials: list[str], tmp_path: Path, fails_at: str, kept: bool, lost: bool
) -> None:
    store.fails_at, store.answers_are_lost = fails_at, lost
    with pytest.raises(StoreUnavailable):
        Publisher(store, signing_key=signatures.generate_keys()[0]).publish("m", files(1), {})
    assert sorted(left(store, tmp_path)) == (
        ["data.txt", "m0.joblib", *(["manifest.json"] if lost else []), "manifest.sig"] if kept else []
    )


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_is_there_already_is_accepted_if_it_has_the_same_bytes_and_is_not_deleted_otherwise(
    store: Watched, trials: list[str], monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    # Given that the response to the completion of the upload was lost, or the key belongs to another publishing
    monkeypatch.setattr(publisher, "new_version", lambda: "20261129T054500Z-0a1b2")
    key = keys.artifact("m", "20261129T054500Z-0a1b2", "model.joblib")
    there = LARGE if same else LARGE[::-1]
    store.put(key, there)
    store.read_back.set()
    if same:
        publish(store, LARGE)
    else:
        with pytest.raises(ModelCorrupt):
            publish(store, LARGE)
    assert store.get(key).data == there


def test_a_file_is_not_loaded_before_its_digest_is_known_to_be_right(store: Watched, trials: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="f does not have the SHA-256 that is given for 'model'"):
        publish(store, LARGE, sha256=sha256_hex(b"other"))
    with pytest.raises(ModelCorrupt, match="f differs from its recorded digest: save it again"):
        publish(store, Counted(LARGE, recorded_sha256=sha256_hex(b"other")))
    assert (trials, store.done) == ([], [])
    content = Counted(LARGE)
    assert publish(store, content, sha256=sha256_hex(LARGE))
    assert len(content.reads) == 2


@pytest.mark.parametrize("then", [b"\0" + LARGE[1:], LARGE[:-1] + b"\0", LARGE + b"\0", LARGE[:-1], LARGE[: 4 * MIB]])
def test_a_file_that_is_swapped_after_its_digest_was_checked_is_refused(
    store: Watched, trials: list[str], tmp_path: Path, then: bytes
) -> None:
    with pytest.raises(InvalidRequest, match="f was changed while it was published: publish it again"):
        publish(store, Counted(LARGE, then), sha256=sha256_hex(LARGE))
    starts = range(0, len(LARGE), 4 * MIB)
    same = [then[start : start + 4 * MIB] == LARGE[start : start + 4 * MIB] for start in starts]
    assert trials == ["chunk"] * same.index(False) + ["close"]
    assert left(store, tmp_path) == []


def test_an_empty_file_is_refused(store: Watched, trials: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="the file of model 'model' is empty"):
        publish(store, b"")


def test_each_step_reports_its_progress(store: Watched, trials: list[str]) -> None:
    seen: list[tuple[str, int, int | None]] = []
    file = NewArtifact(role="model", name="model", data=LARGE, sha256=sha256_hex(LARGE))
    Publisher(store).publish("m", [file], {}, lambda *now: seen.append(now))
    ends = {step: done for step, done, _ in seen}
    assert list(ends) == ["hashing", "uploading", "loading", "verifying"]
    assert (ends["hashing"], ends["uploading"], ends["verifying"]) == (len(LARGE),) * 3
    assert {total for _, _, total in seen} == {len(LARGE)}


def test_an_object_in_the_bucket_is_saved_and_published_in_pieces(store: Watched, trials: list[str]) -> None:
    models = ModelStorageManager(store, cloud_only=False, use_r2=False)
    sha256 = models.save("old/forest.joblib", large())
    assert "part" in store.done
    assert sha256 == sha256_hex(LARGE)
    found = models.find_file("old/forest.joblib")
    assert found.recorded_sha256 == sha256
    assert isinstance(found, StoredFile)
    assert publish(store, found).artifacts[0].sha256 == sha256
    assert np.array_equal(models.load_object("old/forest.joblib").payload, large().payload)


class Restless:
    """An object that encodes to other bytes each time."""

    times = 0

    def __reduce__(self) -> Any:
        Restless.times += 1
        return bytes, (Restless.times.to_bytes(8, "big") * (2 * MIB),)


def test_an_object_that_encodes_to_other_bytes_each_time_is_saved_with_its_own_digest(store: Watched) -> None:
    models = ModelStorageManager(store, cloud_only=False, use_r2=False)
    sha256 = models.save("restless.joblib", Restless())
    assert sha256_hex(store.get("restless.joblib").data) == sha256


def test_versions_have_the_form_that_sorts_by_time() -> None:
    made = publisher.new_version()
    assert keys.is_version(made)
    assert publisher.created(made).startswith(f"{made[:4]}-{made[4:6]}-{made[6:8]}T{made[9:11]}:")


def test_the_later_of_two_versions_of_a_second_sorts_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = mock.Mock(datetime)
    monkeypatch.setattr(publisher, "datetime", clock)
    made = []
    for microsecond in (0, 300, 1_000, 250_000, 999_999):
        clock.now.return_value = datetime(2026, 11, 29, 5, 45, tzinfo=UTC, microsecond=microsecond)
        made.append(publisher.new_version())
    assert all(keys.is_version(version) for version in made)
    assert made == sorted(made)


def test_an_application_can_publish_many_versions_in_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime(2026, 11, 29, 5, 45, tzinfo=UTC)
    ticks = iter([at, at, at, *(at.replace(microsecond=500 * n) for n in range(1, 20))])  # a clock may stand still
    clock = mock.Mock(datetime)
    clock.now.side_effect = lambda zone: next(ticks)
    with eager(tmp_path) as client:
        monkeypatch.setattr(publisher, "datetime", clock)
        clock.strptime = datetime.strptime
        made = [client.models.publish("line", LINE).version for _ in range(3)]
    assert made == sorted(made)
    assert {version[:-5] for version in made} == {"20261129T054500Z-"}


def test_a_clock_that_does_not_pass_the_newest_version_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter(range(30_000))  # a wait without an end raises StopIteration
    monkeypatch.setattr(time, "sleep", lambda _: next(waits))
    with eager(tmp_path) as client:
        newest = client.models.publish("line", LINE).version
        monkeypatch.setattr(manager, "new_version", lambda: newest)
        with pytest.raises(InvalidRequest, match=f"has the version {newest}, and the clock of this machine"):
            client.models.publish("line", LINE)
        assert client.models.publish("other", LINE).version


@pytest.fixture(scope="module")
def fresh() -> Callable[[Any], TrialLoad]:
    def load(content: Any) -> TrialLoad:
        return try_loading("m", [NewArtifact(role="model", name="model", data=content, source="f")])

    return load


class Code:
    """An object whose pickle runs code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


FORGED = """
import json, os
report = {"feature_names": None, "n_features": 1, "outputs": {}, "libraries": {}, "memory_bytes": 1}
for number in range(3, 30):
    try:
        os.write(number, json.dumps(report).encode())
        os._exit(0)
    except OSError:
        pass
"""
"""Code that finds the file for the report of its process, and writes a report of its own."""


@pytest.mark.parametrize("rest", [100, 40 * MIB], ids=["few bytes left", "many bytes left"])
@pytest.mark.parametrize("first", [b"", LARGE[: 17 * MIB]], ids=["at once", "after many bytes"])
def test_a_file_that_ends_its_process_early_is_refused_whatever_the_process_reported(
    fresh: Callable[[Any], TrialLoad], first: bytes, rest: int
) -> None:
    # Given a pickle that reports success itself and ends the process before all bytes were sent
    data = dump([np.frombuffer(first, np.uint8), Code(FORGED)])
    with pytest.raises(ModelUnloadable, match="ended before it had read all of it"):
        fresh(data + bytes(rest))


def test_a_fresh_process_unpickles_a_large_model_as_it_arrives_and_measures_it(
    fresh: Callable[[Any], TrialLoad],
) -> None:
    found = fresh(Pickled(large(48 * MIB)))
    assert 48 * MIB < found.memory_bytes < 56 * MIB


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("bytearray(1 << 50)", "cannot be loaded: there is too little memory for it here"),
        ("import os; os.kill(os.getpid(), 9)", "it was killed, which happens if the machine has too little memory"),
    ],
    ids=["refused", "killed"],
)
def test_too_little_memory_in_the_trial_is_named(fresh: Callable[[Any], TrialLoad], code: str, message: str) -> None:
    with pytest.raises(ModelUnloadable, match=message):
        fresh(dump([large(17 * MIB), Code(code)]))
