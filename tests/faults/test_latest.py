"""Readers of ``latest.json`` see one complete accepted run at every moment, whatever dies or is decided."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter

import pytest

from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.tasks.job.uris import parse_uri
from tests.support.rig import HASTE, Rig
from tests.support.waiting import HANG_S

PARTS, ROWS = 3, 100


class Reader(threading.Thread):
    """Reads ``latest.json`` and every file that it names, again and again, as readers do."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        super().__init__(name="reader", daemon=True)
        self.store, self.key = store, key
        self.over = threading.Event()
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  # the test shows every fault
                self.faults.append(f"{type(error).__name__}: {error}")

    def look(self) -> None:
        try:
            latest = json.loads(self.store.get(self.key).data)
        except ObjectNotFound:
            assert not self.seen, "latest.json has disappeared"
            return
        job_id, rows = latest["job_id"], 0
        for file in latest["files"]:
            data = self.store.get(parse_uri(file["uri"])[1]).data
            assert sha256_hex(data) == file["sha256"], file["uri"]
            assert f"job_id={job_id}/" in file["uri"]
            rows += file["rows"]
        assert rows == PARTS * ROWS, f"{job_id} has {rows} rows"
        self.seen[job_id] += 1


def output_of(rig: Rig) -> str:
    return f"s3://{rig.store.bucket}/accepted/"


@pytest.mark.parametrize("hold", ["claim-1.json", "_SUCCESS", "latest.json", "outcome.json"])
def test_a_finalizer_killed_between_checks_outcome_and_pointer_is_replaced(rig: Rig, hold: str) -> None:
    # Given an accepted run, and a reader who loops over latest.json
    rig.start_worker(1)
    rig.publish()
    output = output_of(rig)
    first = rig.submit(PARTS, rows=ROWS, output=output)
    assert rig.end(first).state == "succeeded", rig.logs()
    reader = Reader(rig.store, "accepted/latest.json")
    reader.start()
    try:
        # When the finalizer of the next run is killed at one of its writes, and Redis is emptied
        rig.chaos(hold=f"{hold}? PUT")
        second = rig.submit(PARTS, rows=ROWS, output=output)
        rig.wait(rig.held, f"a finalizer at {hold}")
        rig.kill(rig.parents() + rig.children())
        assert not rig.client.status(second.job_id).ended
        rig.chaos(hold="_nothing")
        rig.redis.flushall()
        rig.start_worker(1)
        # Then another one ends it, and the run becomes the latest
        rig.verify(rig.end(second))
        rig.wait(lambda: reader.seen[second.job_id], "the reader to see the second run")
        # And a person goes back and forth while the reader reads
        for _ in range(3):
            rig.client.roll_back(output, reason="wrong prices")
            rig.client.accept(second.job_id, "they were right")
        rig.client.reject(second.job_id, "they were not")
        seen = reader.seen[first.job_id]
        rig.wait(lambda: reader.seen[first.job_id] > seen + 1, "the reader to see the first run again")
    finally:
        reader.over.set()
        reader.join()
    assert reader.faults == []
    assert set(reader.seen) == {first.job_id, second.job_id}
    assert not exists(rig.store, f"accepted/job_id={second.job_id}/_SUCCESS")


@pytest.mark.parametrize("hold", ["review.json", "_SUCCESS", "latest.json", "outcome.json"])
def test_a_command_killed_while_it_accepts_is_repeated(rig: Rig, hold: str) -> None:
    # Given a run that was withdrawn
    rig.start_worker(1)
    rig.publish()
    output = output_of(rig)
    job = rig.submit(PARTS, rows=ROWS, output=output)
    assert rig.end(job).state == "succeeded", rig.logs()
    assert rig.client.reject(job.job_id, "too early").latest is None
    # When `scoreline accept` is killed at one of its writes
    rig.chaos(hold=f"{hold}? PUT")
    command = [sys.executable, "-m", "scoreline", "accept", job.job_id, "--reason", "right after all"]
    environ = os.environ | rig.stack.environ | HASTE
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            rig.wait(rig.held, f"the command at {hold}")
        finally:
            process.kill()
            process.communicate(timeout=HANG_S)
    rig.chaos(hold="_nothing")  # the request of the dead process arrives
    rig.wait(lambda: not rig.held(), "the last request")
    # Then the same command again does the rest
    decided = rig.client.accept(job.job_id, "right after all")
    assert (decided.outcome.state, decided.latest) == ("succeeded", job.job_id)
    assert exists(rig.store, f"accepted/job_id={job.job_id}/_SUCCESS")
    reader = Reader(rig.store, "accepted/latest.json")
    reader.look()
    assert reader.seen == {job.job_id: 1}
