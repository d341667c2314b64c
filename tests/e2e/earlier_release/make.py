"""Make the state that `test_earlier_release.py` restores: a bucket and a Redis with unfinished work of a release.

The script runs the code of an earlier release with embedded services, in a checkout of that release::

    git clone . ../earlier && cd ../earlier && git checkout 7c02dda && make setup
    .venv/bin/python make.py FOLDER

The script writes only bytes and commands, because these do not depend on the embedded services:

``bucket.zip``
    Every object, under its key.
``objects.json``
    Content type and metadata of every object, by key. ETags are not stored, because a server computes them from the
    bytes.
``redis.json``
    Commands that restore every key, with its time to live. Values that are not text are in base64.
``said.json``
    What the command line of that release printed about this state, and the other values that the test needs.

The ledger stores deadlines of leases and messages by the workers' clocks. These deadlines have passed when a test
restores the state, as if the worker had died long ago.

The state contains these unfinished and finished jobs:

- ``under-way``: has 12 parts. Three are counted, one is written but not counted, one was begun, six wait in the queue,
  and one was not dispatched. The messages of the two parts that a dead worker held are not acknowledged;
- ``arranging``: all parts are counted, and the files and the manifest of the job are written; the worker died before it
  wrote ``_SUCCESS``;
- ``submitted``: no worker has taken it yet; ``resumed``: no worker has taken its second run yet;
- ``failed-part``: failed because an object was missing; the object has been put back since;
- ``over-budget``: failed because it rejected a row;
- ``finished``: has all its results except for two rejected rows;
- ``to-be-told``: has ended while the receiver of its notification was down;
- ``records-staged``: its records are in the bucket; ``score_records-by-name``, ``submit-by-name`` and
  ``status-by-name`` are messages of an application without Scoreline;
- ``yearly-20250101T020000Z``: the job of a slot; the schedule has recorded the end of the job;
- ``ledgers-20230101T020000Z``: a slot that is under way, while a second slot waits and a third was requested.

The alias ``champion`` was moved after ``under-way`` and other jobs had begun, so these jobs use the previous version.
Both versions are signed with a key that was deleted afterwards.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from celery import Celery
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder, StandardScaler

sys.path.insert(0, str(Path(sys.prefix).parent))  # the tests are not installed, so import them from the checkout

from storage.models import signatures
from storage.models.manager import ModelStorageManager
from tasks.client import Client
from tasks.scheduler import Scheduler
from tests.faults.rig import Rig

WEBHOOK = "http://127.0.0.1:9/ended"  # nothing listens at this address; the test replaces it
FEATURES = ["calls", "minutes", "bill"]
PART_ROWS = 40
LONG_AGO_S = 3600
PATIENT = {
    "PART_LEASE_SECONDS": "60",
    "PART_PATIENCE_SECONDS": "120",
    "RECONCILE_SECONDS": "60",
    "R2_TIMEOUT_SECONDS": "120",  # long enough that the client does not resend a request that is held back
}
YEARLY = """\
[yearly]
cron = "0 3 1 1 *"
zone = "Europe/Berlin"
model = "churn@champion"
input = "s3://scoreline/accounts/"
only_new = true
"""
LEDGERS = """
[ledgers]
cron = "0 3 1 1 *"
zone = "Europe/Berlin"
model = "churn@champion"
input = "s3://scoreline/accounts/"
output = "s3://scoreline/ledgers/{slot:%Y}/"
catch_up = "none"
overlap = "queue"
"""


def customers(first: int, count: int, missing: tuple[int, ...] = ()) -> pd.DataFrame:
    """Return customers numbered from `first`; the customers in `missing` have no bill."""
    chance = np.random.default_rng(first)
    frame = pd.DataFrame(
        {
            "customer": np.arange(first, first + count),
            "region": chance.choice(["apac", "eu", "us"], count),
            "calls": chance.poisson(20, count).astype(float),
            "minutes": chance.gamma(2.0, 60.0, count).round(1),
            "bill": chance.gamma(3.0, 12.0, count).round(2),
        }
    )
    frame.loc[frame["customer"].isin(missing), "bill"] = np.nan
    return frame


def parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, row_group_size=PART_ROWS)
    return sink.getvalue()


def csv(frame: pd.DataFrame, unreadable: int) -> bytes:
    """Write a CSV in which the bill of one customer is not a number."""
    texts = frame.astype({"bill": object})
    texts.loc[texts["customer"] == unreadable, "bill"] = "unpaid"
    return texts.to_csv(index=False).encode()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


RECORDS = {
    "records-staged": records(customers(3000, 6, missing=(3002,))),
    "score_records-by-name": records(customers(3100, 5)),
}


class Release:
    """Runs jobs with the earlier release, and leaves them in different states."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        signing, verify = signatures.generate()
        self.verify_key = verify
        self.environ = (
            rig.environ
            | PATIENT
            | {
                "MODEL_VERIFY_KEYS": verify,
                "ALLOWED_WEBHOOKS": WEBHOOK,
                "WEBHOOK_SECRET": "whsec_" + "c2NvcmVsaW5l" * 3,
                "SCHEDULES_FILE": "none.toml",
            }
        )
        self.client = Client.from_env(self.environ)
        self.models = ModelStorageManager.from_env(self.environ | {"MODEL_SIGNING_KEY": signing})
        self.scheduler = Scheduler(self.client, Path("none.toml"))
        self.raw = boto3.client(
            "s3",
            endpoint_url=rig.environ["R2_ENDPOINT_URL"],
            region_name="auto",
            aws_access_key_id=rig.environ["R2_ACCESS_KEY_ID"],
            aws_secret_access_key="secret",
        )

    def start_worker(self) -> None:
        names = ("MODEL_VERIFY_KEYS", "ALLOWED_WEBHOOKS", "WEBHOOK_SECRET", "SCHEDULES_FILE")
        self.rig.start_worker(1, **PATIENT, **{name: self.environ[name] for name in names})

    def kill_worker(self) -> None:
        """Kill a worker's main process and its child together, as a machine does when it runs out of memory."""
        processes = self.rig.parents() + self.rig.children()
        for process in processes:
            process.kill()
        if self.rig.wait_for_exit(processes, 20):
            raise SystemExit("error: a worker does not die")

    def submit(self, job_id: str, source: str, **options: Any) -> None:
        self.client.submit("churn@champion", f"s3://scoreline/{source}", job_id=job_id, part_rows=PART_ROWS, **options)

    def end(self, job_id: str, state: str) -> None:
        *_, last = self.client.watch(job_id, timeout_s=60)
        if last.state != state:
            raise SystemExit(f"error: {job_id} is {last}, and should be {state}\n{self.rig.logs()}")

    def is_there(self, key: str) -> bool:
        return any(info.key == key for info in self.client.buckets.main.list(key))

    def left(self, task: str, retries: int = 0) -> bool:
        """Return whether an unacknowledged message of this task exists."""
        found = [json.loads(text)[0]["headers"] for text in self.rig.redis.hvals("unacked")]
        return any(head["task"] == task and head["retries"] >= retries for head in found)

    def waiting(self, queue: str) -> set[str]:
        return {json.loads(text)["headers"]["task"] for text in self.rig.redis.lrange(queue, 0, -1)}

    def cli(self, *arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("scoreline")), *arguments]
        done = subprocess.run(
            command,
            env={"PATH": "/usr/bin:/bin"} | self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"error: {command}: {done.stderr}")
        return done.stdout

    # What the release does

    def publish(self, *steps: Any, seed: int) -> None:
        frame = customers(seed, 400)
        labels = np.where(frame["bill"] + frame["minutes"] / 10 - frame["calls"] > 20, "leaves", "stays")
        encoder = LabelEncoder().fit(labels)
        x: Any = frame[FEATURES]
        for step in steps:
            x = step.fit_transform(x)
        model = LogisticRegression().fit(x, encoder.transform(labels))
        self.models.publish(
            "churn",
            model,
            preprocessor=list(steps),
            label_encoder=encoder,
            alias="champion",
            metadata={"customers": 400},
        )

    def fill(self) -> None:
        put = self.rig.store.put
        put("schedules.toml", YEARLY.encode())
        put("customers/0.parquet", parquet(customers(0, 280, missing=(45, 46))))
        put("customers/1.csv", csv(customers(280, 200), unreadable=300))
        put("branch/a.parquet", parquet(customers(1000, 80, missing=(1003, 1050))))
        put("branch/b.parquet", parquet(customers(1080, 80)))
        put("few/a.csv", csv(customers(1200, 40), unreadable=1207))
        put("few/b.parquet", parquet(customers(1240, 60, missing=(1250,))))
        put("accounts/2024.parquet", parquet(customers(2000, 30)))

    def end_some(self) -> None:
        """Run jobs that end in every possible state."""
        rig = self.rig
        self.submit("finished", "few/", max_rejected="10%")
        self.end("finished", "partial")
        # Delete an object before its parts are scored, and put it back unchanged
        rig.chaos(hold="failed-part/part-00000.parquet")
        self.submit("failed-part", "branch/", max_rejected="10%")
        rig.wait(rig.held, "a part about to be written")
        away = rig.store.get("branch/b.parquet").data
        rig.store.delete("branch/b.parquet")
        rig.chaos()
        self.end("failed-part", "failed")
        rig.store.put("branch/b.parquet", away)
        self.submit("over-budget", "branch/", max_rejected="0")
        self.end("over-budget", "failed")
        # Run the job of a slot, and let the schedule record the end of the job
        slot = datetime(2025, 1, 1, 2, tzinfo=UTC)
        self.scheduler.tick(datetime(2024, 12, 31, tzinfo=UTC))
        self.scheduler.tick(slot)
        self.end("yearly-20250101T020000Z", "succeeded")
        self.scheduler.tick(slot)
        # End a job while the receiver of its webhook is down
        self.submit("to-be-told", "accounts/", webhook=WEBHOOK)
        self.end("to-be-told", "succeeded")
        rig.wait(lambda: self.left("scoreline.events", retries=1), "another try to tell")

    def die_arranging(self) -> None:
        """Leave a job with all arranged files and all parts, but without ``_SUCCESS``."""
        self.rig.chaos(hold="arranging/_SUCCESS? PUT")
        self.submit("arranging", "few/", max_rejected="10%", partition_by="region")
        self.rig.wait(self.rig.held, "a finalizer about to write _SUCCESS")
        self.kill_worker()
        self.rig.chaos()
        key = "results/churn/job_id=arranging/_SUCCESS"
        self.rig.wait(lambda: self.is_there(key), "what was sent arriving late")
        self.rig.store.delete(key)

    def die_scoring(self) -> None:
        """Leave a job with three counted parts, one that is written but not counted, and one that has begun."""
        self.rig.chaos(hold="under-way/part-00003.parquet")
        self.start_worker()
        self.submit("under-way", "customers/")
        self.rig.wait(self.rig.held, "part 3 about to be written")
        self.kill_worker()
        # this request is never let through, so part 4 is never written
        self.rig.chaos(hold="under-way/part-00004.parquet")
        self.rig.wait(
            lambda: self.is_there("results/churn/job_id=under-way/part-00003.parquet"), "part 3 arriving late"
        )
        self.start_worker()
        self.rig.wait(self.rig.held, "part 4 about to be written")
        self.kill_worker()

    def leave_waiting(self) -> None:
        """Submit jobs and messages after the last worker has stopped."""
        self.submit("submitted", "customers/")
        self.submit("resumed", "few/")
        self.client.cancel("resumed")
        self.client.resume("resumed", max_rejected="10%")
        self.client.submit_records("churn@champion", RECORDS["records-staged"], job_id="records-staged")
        url = self.rig.environ["REDIS_URL"]
        messages = {
            "score_records": {"model": "churn@champion", "records": RECORDS["score_records-by-name"]},
            "submit": {"model": "churn@champion", "input": "s3://scoreline/few/"},
            "status": {"job_id": "finished"},
        }
        with Celery(broker=url, backend=url, set_as_current=False) as application:
            for name, arguments in messages.items():
                queue = "scoreline.clock" if name == "status" else "scoreline"
                application.send_task(f"scoreline.{name}", kwargs=arguments, task_id=f"{name}-by-name", queue=queue)
        self.rig.store.put("schedules.toml", (YEARLY + LEDGERS).encode())
        # Submit the job of a slot, let the next job wait until it ends, and request the job of an older slot
        for moment in (
            datetime(2022, 12, 31, tzinfo=UTC),
            *(datetime(year, 1, 1, 2, tzinfo=UTC) for year in (2023, 2024)),
        ):
            self.scheduler.tick(moment)
        self.scheduler.ask(
            self.scheduler.get("ledgers"),
            [datetime(2022, 1, 1, 2, tzinfo=UTC)],
            now=datetime(2024, 1, 1, 2, 1, tzinfo=UTC),
        )
        # Wait until beat has sent the messages of its periodic tasks
        self.rig.start_beat(RECONCILE_SECONDS="1", TICK_SECONDS="1")
        clock = {"scoreline.reconcile", "scoreline.tick"}
        self.rig.wait(lambda: clock <= self.waiting("scoreline.clock"), "messages of the clock")
        for process in self.rig.clocks():
            process.kill()

    # What is kept

    def said(self) -> dict[str, Any]:
        counters = [
            line for line in self.cli("metrics").splitlines() if line.startswith("scoreline_") and "_total" in line
        ]
        return {
            "jobs": json.loads(self.cli("jobs", "--json")),
            "rejected": {
                job: json.loads(self.cli("rejected", job, "--json")) for job in ("finished", "failed-part", "under-way")
            },
            "schedules": json.loads(self.cli("schedule", "list", "--json")),
            "aliases": self.cli("models", "alias", "churn", "champion"),
            "counters": counters,
            "records": RECORDS,
            "verify_key": self.verify_key,
            "webhook": WEBHOOK,
        }

    def bucket(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        bodies, known = {}, {}
        for page in self.raw.get_paginator("list_objects_v2").paginate(Bucket="scoreline"):
            for item in page["Contents"]:
                got = self.raw.get_object(Bucket="scoreline", Key=item["Key"])
                bodies[item["Key"]] = got["Body"].read()
                known[item["Key"]] = {"content_type": got["ContentType"], "metadata": got["Metadata"]}
        return bodies, known

    def commands(self) -> list[list[Any]]:
        """Return the commands that restore every key, with PEXPIRE for a key that expires."""
        found: list[list[Any]] = []
        for key in sorted(self.rig.redis.scan_iter()):
            kind = self.rig.redis.type(key).decode()
            match kind:
                case "string":
                    found.append(["SET", key, self.rig.redis.get(key)])
                case "hash":
                    pairs = sorted(self.rig.redis.hgetall(key).items())
                    found.append(["HSET", key, *(word for pair in pairs for word in pair)])
                case "list":
                    found.append(["RPUSH", key, *self.rig.redis.lrange(key, 0, -1)])
                case "set":
                    found.append(["SADD", key, *sorted(self.rig.redis.smembers(key))])
                case "zset":
                    scores = self.rig.redis.zrange(key, 0, -1, withscores=True)
                    if key == b"unacked_index":
                        # The broker redelivers an unacknowledged message after a timeout. Move the time of the message
                        # an hour back, so that the timeout has passed when a test restores the state
                        scores = [(member, score - LONG_AGO_S) for member, score in scores]
                    found.append(["ZADD", key, *(word for member, score in scores for word in (repr(score), member))])
                case _:
                    raise SystemExit(f"error: {key!r} is a {kind}")
            left_ms = self.rig.redis.pttl(key)
            if left_ms >= 0:
                found.append(["PEXPIRE", key, str(left_ms)])
        return [[self._word(word) for word in command] for command in found]

    @staticmethod
    def _word(word: str | bytes) -> Any:
        data = word.encode() if isinstance(word, str) else word
        # remove the name of the machine that ran this script
        data = data.replace(f"@{socket.gethostname()}".encode(), b"@machine")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(data).decode()}
        return text if text.isprintable() else {"base64": base64.b64encode(data).decode()}


def write(folder: Path, release: Release, code: str) -> None:
    said = {"release": code, "at": datetime.now(UTC).isoformat(timespec="seconds")} | release.said()
    bodies, known = release.bucket()
    commands = release.commands()
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "bucket.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, body in bodies.items():
            archive.writestr(zipfile.ZipInfo(key), body, zipfile.ZIP_DEFLATED)
    for name, content in (("objects", known), ("redis", commands), ("said", said)):
        (folder / f"{name}.json").write_text(by_lines(content))


def by_lines(content: Any) -> str:
    """Write JSON with one item per line."""
    if isinstance(content, dict):
        lines = [f"{json.dumps(key)}: {json.dumps(content[key], ensure_ascii=False)}" for key in content]
        return "{\n" + ",\n".join(lines) + "\n}\n"
    return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in content) + "\n]\n"


def main(folder: Path) -> None:
    code = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"],
        cwd=Path(sys.prefix).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as logs, Rig(Path(logs)) as rig:
        release = Release(rig)
        release.fill()
        release.publish(StandardScaler(), seed=100)
        release.start_worker()
        release.end_some()
        release.die_arranging()
        release.die_scoring()
        release.publish(SimpleImputer(), StandardScaler(), seed=200)
        release.leave_waiting()
        write(folder, release, code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
