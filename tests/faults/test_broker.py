"""Each row is written exactly once, even if Redis loses data, hangs up, or delivers messages twice or never."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from tests.support.rig import Rig


def test_a_job_survives_a_restart_of_redis(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.ensure_beat()
    rig.publish(seconds=0.2)
    job = rig.submit(30)
    rig.wait_for_parts(job, 6)
    rig.stack.restart_valkey()
    rig.verify(rig.end(job))


def test_a_job_survives_an_emptied_redis(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.ensure_beat()
    rig.publish(seconds=0.2)
    job = rig.submit(30)
    for parts in (4, 12, 20):
        rig.wait_for_parts(job, parts)
        rig.redis.flushall()
    rig.verify(rig.end(job))


def test_a_job_survives_the_loss_of_every_redis_connection(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.ensure_beat()
    rig.publish(seconds=0.3)
    job = rig.submit(24)
    for parts in (2, 8):
        rig.wait_for_parts(job, parts)
        rig.redis.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    rig.verify(rig.end(job))


@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_a_worker_outlasts_a_redis_that_refuses_writes(rig_at_work: Rig, fault: str) -> None:
    rig = rig_at_work
    rig.ensure_beat()
    rig.publish(seconds=0.2)
    job = rig.submit(24)
    rig.wait_for_parts(job, 4)
    workers, sign = rig.parents(), {"read-only": "read only replica", "full": "maxmemory"}[fault]
    refused = count_in_logs(rig, sign)
    # When the server refuses writes, as in a failover or when its memory is full, until the worker logs the error
    if fault == "read-only":
        rig.redis.replicaof("127.0.0.1", 1)
    else:
        rig.redis.config_set("maxmemory", "1mb")
    try:
        rig.wait(lambda: count_in_logs(rig, sign) > refused + 5, "a worker that tries to connect again")
    finally:
        rig.redis.replicaof("NO", "ONE")
        rig.redis.config_set("maxmemory", "0")
    # Then the same worker completes the job
    rig.verify(rig.end(job))
    assert rig.parents() == workers
    assert len(rig.clocks()) == 1
    # Delete messages whose acknowledgement was refused: they are redelivered only after hours, and the next tests need
    # an idle rig
    rig.redis.delete("unacked", "unacked_index")


def count_in_logs(rig: Rig, text: str) -> int:
    return sum(log.read_text(errors="replace").count(text) for log in rig.stack.folder.glob("*worker*.log"))


def test_rows_are_written_once_if_every_message_is_delivered_twice(rig: Rig) -> None:
    rig.publish(seconds=0.05)
    # Given a queue in which the test duplicates every message. All processes wait at a part, and then at another one,
    # until it has duplicated the messages behind
    rig.chaos(hold="part-0001")
    job = rig.submit(30)
    seen: set[bytes] = set()

    def double() -> None:
        for message in rig.messages():
            if message not in seen:
                seen.add(message)
                rig.redis.lpush(rig.queue, message)

    def doubled(count: int) -> bool:
        double()
        return len(seen) >= count

    double()
    rig.start_worker(2)
    rig.wait(lambda: doubled(1 + 6), "the window of the tenth part")
    rig.chaos(hold="part-0002")
    rig.wait(lambda: doubled(1 + 12), "the window of the twentieth part")
    rig.chaos()
    while not rig.client.status(job.job_id).ended:
        double()
        time.sleep(0.01)
    rig.verify(rig.end(job))


def test_lost_messages_are_sent_again(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.ensure_beat()
    rig.publish(seconds=0.1)

    def lose() -> int:
        return sum(bool(rig.redis.lrem(rig.queue, 1, message.decode())) for message in rig.messages())

    # When all messages in the queue are deleted while both processes are at a part, and again later
    rig.chaos(hold="part-0001")
    job = rig.submit(30)
    rig.wait(lambda: rig.held() == 2, "two parts about to be written")
    assert lose() >= 6  # what is left of the window, and what was sent again on a slow machine
    rig.chaos()
    rig.wait_for_parts(job, 18)
    lose()
    # Then the reconciler resends the messages of the parts that have not started
    rig.verify(rig.end(job))


def test_ten_reconcilers_at_once_dispatch_each_part_once(rig: Rig) -> None:
    # Given no worker, and an unfinished job that Redis has lost
    rig.start_worker(2)
    rig.publish()
    rig.chaos(hold="part-0001")  # so that no part is written after the workers are dead
    job = rig.submit(30)
    rig.wait(lambda: rig.held() == 2, "two parts about to be written")
    processes = rig.parents() + rig.children()
    rig.kill(processes)
    rig.wait_for_exit(processes)
    rig.redis.flushall()
    # When ten reconcilers examine the job at once
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: Client.from_env(rig.environ).reconcile(), range(10)))
    # Then the queue contains one window, each part once: the first eight parts without a result in the bucket
    folder = parse_uri(job.output)[1]
    done = {keys.part_number(info.key) for info in rig.store.list(folder)}
    parts = sorted(part_of(message) for message in rig.messages())
    assert len(done) == 10
    assert parts == [number for number in range(30) if number not in done][:8]
    rig.chaos()
    rig.start_worker(2)
    rig.verify(rig.end(job))


def test_the_plan_in_the_bucket_replaces_a_different_one_in_redis(rig: Rig) -> None:
    rig.publish()
    job = rig.submit(4)
    rig.client.ledger.begin(job.job_id, "of another plan", 9, budget=0)
    rig.start_worker(1)
    rig.verify(rig.end(job))


def test_a_job_runs_with_a_broker_other_than_redis(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a broker that keeps messages in files, and the ledger in Redis
    (tmp_path / "data_in").mkdir()
    (tmp_path / "data_out").symlink_to(tmp_path / "data_in")  # each process reads the messages that another one writes
    monkeypatch.chdir(tmp_path)  # kombu's filesystem transport uses the working directory
    rig.stack.environ["CELERY_BROKER_URL"] = "filesystem://"
    rig.client = Client.from_env(rig.environ | {"CELERY_BROKER_URL": "filesystem://"})
    rig.publish(seconds=0.05)
    rig.start_worker(2)
    job = rig.submit(12)
    rig.verify(rig.end(job))
    assert rig.redis.exists(rig.queue, "unacked") == 0
    assert rig.client.ledger.progress(job.job_id) is not None


def test_a_large_job_keeps_to_its_window_and_a_small_job_of_another_group_need_not_wait(rig: Rig) -> None:
    rig.start_worker(2)
    rig.publish(seconds=0.02)
    rig.chaos(hold="part-0014")  # so that the large job cannot end before the small one
    large = rig.submit(150)
    rig.wait_for_parts(large, 5)
    small = rig.client.submit("paced", rig.store.uri("in/0.parquet"), part_rows=800, group="small")
    longest, ended = 0, False
    while not ended:
        ended = rig.client.status(small.job_id).ended
        longest = max(longest, len(rig.messages()))
        time.sleep(0.05)
    rig.chaos()
    assert rig.client.status(small.job_id).parts == 10
    assert 0 < longest <= 8 + 8 + 1  # the windows of both jobs, and the last step of the small one
    rig.verify(rig.end(large))
    # meanwhile, the large job ends only the parts that were queued before, and about as many others as the small job
    # has
    log = (rig.stack.folder / "s3.log").read_text()
    begun, over = (log.index(f"PUT /{rig.store.bucket}/{key(small.job_id)} ") for key in (keys.job, keys.outcome))
    assert log[begun:over].count(f"%3D{large.job_id}/part-") < 80


def test_the_window_grows_with_the_number_of_worker_processes(rig: Rig) -> None:
    rig.publish(seconds=1)
    rig.start_worker(3)
    rig.wait(lambda: rig.client.ledger.processes() == 3, "a count of the processes")
    rig.wait(lambda: rig.client.ledger.worker_size() == 3, "the size of the worker")
    job = rig.submit(40)
    rig.wait(lambda: (now := rig.client.ledger.progress(job.job_id)) and now.in_flight == 12, "a window of 4 a process")
    rig.client.cancel(job.job_id)


def body(message: bytes) -> bytes:
    return base64.b64decode(json.loads(message)["body"])


def part_of(message: bytes) -> int:
    return int(json.loads(body(message))[1]["part"])


def test_lost_parts_are_sent_again_while_another_job_fills_the_queue(rig: Rig) -> None:
    rig.start_worker(1)
    rig.start_beat()
    rig.publish(seconds=0.25)
    lost = rig.submit(10)
    rig.wait_for_parts(lost, 1)
    busy = rig.client.submit("paced", rig.store.uri("in/"), job_id="busy", part_rows=100)
    for _ in range(2):
        rig.client.submit("paced", rig.store.uri("in/"), part_rows=100)
    for message in rig.messages():
        if lost.job_id.encode() in body(message):
            rig.redis.lrem(rig.queue, 1, message.decode())
    rig.verify(rig.end(lost))
    rig.end(busy)
