"""The current release reads, continues and completes the work that an earlier release left unfinished.

``earlier_release/make.py`` made the state in ``earlier_release/`` with the code of that release, and describes it. The
tests restore that state, and then run the command line, the workers and beat of the current code on it.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from scoreline import RecordsJob
from tests.e2e.test_webhooks import SECRET, notifications
from tests.support.elsewhere import application
from tests.support.receiver import Receiver, receiving
from tests.support.rig import Rig
from tests.support.waiting import HANG_S
from tests.support.warm import run_scoreline

pytestmark = pytest.mark.timeout(400)  # the first test waits until every unfinished job has ended

FOLDER = Path(__file__).with_name("earlier_release")
SAID: dict[str, Any] = json.loads((FOLDER / "said.json").read_text())
BUCKET = "scoreline"
RESULTS = "results/churn"
FEATURES = ["calls", "minutes", "bill"]
NEW = "accounts/new.parquet"  # a test adds this object after the earlier release has stopped
ACCOUNTS = "accounts/2024.parquet", NEW

JOBS: dict[str, tuple[tuple[str, ...], set[int]]] = {
    "under-way": (("customers/0.parquet", "customers/1.csv"), {45, 46, 300}),
    "arranging": (("few/a.csv", "few/b.parquet"), {1207, 1250}),
    "submitted": (("customers/0.parquet", "customers/1.csv"), {300}),
    "resumed": (("few/a.csv", "few/b.parquet"), {1207}),
    "records-staged": ((), set()),
    "score_records-by-name": ((), set()),
    "submit-by-name": (("few/a.csv", "few/b.parquet"), {1207}),
    "ledgers-20230101T020000Z": (ACCOUNTS, set()),
    "ledgers-20240101T020000Z": (ACCOUNTS, set()),
    "ledgers-20220101T020000Z": (ACCOUNTS, set()),
}
"""Jobs that had not ended, each with the objects that it reads and the customers that its version of the model
rejects."""
WITHOUT_REDIS = ("under-way", "arranging", "submitted", "resumed", "records-staged", "ledgers-20230101T020000Z")
"""The jobs that can be continued from the bucket alone."""


class Successor:
    """Runs the current release on the state that the earlier release left."""

    def __init__(self, rig: Rig, receiver: Receiver) -> None:
        self.rig = rig
        self.receiver = receiver
        self._settings = {
            "MODEL_VERIFY_KEYS": SAID["verify_key"],
            "ML_ALLOW_VERSION_SKEW": "true",
            "ALLOWED_WEBHOOKS": receiver.url,
            "WEBHOOK_SECRET": SECRET,
            "TICK_SECONDS": "1",
        }
        self.s3 = boto3.client(
            "s3",
            endpoint_url=rig.environ["R2_ENDPOINT_URL"],
            region_name="auto",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
        self.left: dict[str, tuple[bytes, datetime]] = {}
        """Bytes and modification time of every object that was restored."""
        self.before: dict[str, Any] = {}
        """What the command line prints before a worker is started."""
        self.ended: dict[str, Any] = {}
        """The status of each job, as the command line prints it once all jobs have ended."""
        self.messages: dict[str, Any] = {}
        """Headers, by id, of the messages that waited in a queue or that a dead worker held."""

    # What was left

    def restore_bucket(self) -> None:
        known = json.loads((FOLDER / "objects.json").read_text())
        with zipfile.ZipFile(FOLDER / "bucket.zip") as archive:
            assert set(archive.namelist()) == set(known)
            for key in archive.namelist():
                body = archive.read(key)
                # use the receiver of this test, because the original port may be taken
                if key == "jobs/to-be-told/job.json":
                    assert SAID["webhook"].encode() in body
                    body = body.replace(SAID["webhook"].encode(), f"{self.receiver.url}/ended".encode())
                self.s3.put_object(
                    Bucket=BUCKET,
                    Key=key,
                    Body=body,
                    ContentType=known[key]["content_type"],
                    Metadata=known[key]["metadata"],
                )
        self.left = self.objects("")

    def restore_redis(self) -> None:
        for command in json.loads((FOLDER / "redis.json").read_text()):
            words = [word if isinstance(word, str) else base64.b64decode(word["base64"]) for word in command]
            self.rig.redis.execute_command(*words)
        waiting = [
            json.loads(text)
            for queue in ("scoreline", "scoreline.clock")
            for text in self.rig.redis.lrange(queue, 0, -1)
        ]
        held = [json.loads(text)[0] for text in self.rig.redis.hvals("unacked")]
        self.messages = {message["headers"]["id"]: message["headers"] for message in waiting + held}
        assert len(held) == 4

    # What comes after

    def start(self) -> None:
        self.rig.start_worker(2, **self._settings)
        self.rig.start_beat(**self._settings)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin"} | self.rig.environ | self._settings
        return run_scoreline(*arguments, environ=environ)

    def json_of(self, *arguments: str) -> Any:
        """Return the JSON that the command line prints."""
        done = self.cli(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def jobs(self) -> dict[str, Any]:
        return {job["job_id"]: job for job in self.json_of("jobs")}

    def wait_for_job(self, job: str) -> None:
        """Wait for the end of a job that may not have been submitted yet."""
        self.rig.wait(lambda: self.keys(f"jobs/{job}/job.json"), f"{job} being submitted")
        *_, last = self.rig.client.watch(job, timeout_s=HANG_S)
        assert last.state in ("succeeded", "partial"), f"{last} {self.rig.logs()}"

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def objects(self, prefix: str) -> dict[str, tuple[bytes, datetime]]:
        """Return the bytes and the modification time of each object; no object may be deleted meanwhile."""
        found = {}
        for key in self.keys(prefix):
            got = self.s3.get_object(Bucket=BUCKET, Key=key)
            found[key] = got["Body"].read(), got["LastModified"]
        return found

    def json(self, key: str) -> Any:
        return json.loads(self.objects(key)[key][0])

    def frame(self, key: str) -> pd.DataFrame:
        body = io.BytesIO(self.objects(key)[key][0])
        return pd.read_csv(body) if key.endswith(".csv") else pq.read_table(body).to_pandas()

    def logs(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.rig.stack.folder.glob("worker*.log"))

    # What must hold

    def verify(self, status: Mapping[str, Any], sources: tuple[str, ...], rejected: set[int]) -> None:
        """Check that each input row is scored or rejected once, with the score of the job's version of the model."""
        assert (status["state"], status["error"]) == ("partial" if rejected else "succeeded", "")
        inputs = {source: self.frame(source) for source in sources}
        rows = pd.concat(inputs.values()) if inputs else pd.DataFrame(SAID["records"][status["job_id"]])
        folder = status["output"].removeprefix(f"s3://{BUCKET}/")
        written = {key.removeprefix(folder): body for key, (body, _) in self.objects(folder).items()}
        scored = self.scored(written)
        aside = [
            pq.read_table(io.BytesIO(body)).to_pandas() for key, body in written.items() if key.startswith("_rejected/")
        ]
        places = [place for table in aside for place in zip(table["source"], table["row"], strict=True)]
        refused = [int(inputs[source.removeprefix(f"s3://{BUCKET}/")]["customer"].iloc[row]) for source, row in places]
        assert set(refused) == rejected
        assert sorted(scored["customer"].tolist() + refused) == sorted(rows["customer"])
        if not any(key.startswith("region=") for key in written):
            assert scored["customer"].is_monotonic_increasing
        success, manifest = json.loads(written["_SUCCESS"]), json.loads(written["_manifest.json"])
        for counted in (success, manifest, status):
            assert (counted["rows"], counted["rejected"]) == (len(scored), len(refused))
        # And the scores equal those of the model itself, but the last bits of probabilities vary with the processor
        ours = rows.set_index("customer").loc[scored["customer"]]
        labels, chances = self.model_of(status["model"], ours[FEATURES].apply(pd.to_numeric))
        assert scored["prediction"].tolist() == labels
        for label, chance in chances.items():
            assert np.allclose(scored[f"proba_{label}"], chance, rtol=1e-9, atol=0)
        assert scored["region"].tolist() == ours["region"].tolist()

    @staticmethod
    def scored(written: Mapping[str, bytes]) -> pd.DataFrame:
        """Return the rows that a reader of the results folder sees."""
        tables = []
        for key in sorted(written):
            if not any(step.startswith("_") for step in key.split("/")):
                table = pq.read_table(io.BytesIO(written[key])).to_pandas()
                values = dict(step.split("=") for step in key.split("/")[:-1])
                tables.append(table.assign(**values))
        return pd.concat(tables)

    def model_of(self, ref: str, x: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
        """Return the labels and probabilities of a version, computed with scikit-learn alone."""
        folder = f"models/{ref.replace('@', '/')}"
        loaded = []
        for artifact in self.json(f"{folder}/manifest.json")["artifacts"]:
            with warnings.catch_warnings():  # scikit-learn warns of a model that another version saved
                warnings.simplefilter("ignore")
                key = f"{folder}/{artifact['file']}"
                loaded.append((artifact["role"], joblib.load(io.BytesIO(self.objects(key)[key][0]))))
        ready: Any = x
        for role, step in loaded:
            ready = step.transform(ready) if role == "preprocessor" else ready
        (model,), (encoder,) = ([it for role, it in loaded if role == wanted] for wanted in ("model", "label_encoder"))
        labels = encoder.inverse_transform(model.predict(ready)).tolist()
        return labels, dict(zip(encoder.classes_, model.predict_proba(ready).T, strict=True))

    def verify_kept(self, prefix: str) -> None:
        """Check that each object of the earlier release still exists, and was not rewritten."""
        now = self.objects(prefix)
        before = {key: was for key, was in self.left.items() if key.startswith(prefix)}
        assert before
        for key, was in before.items():
            assert now.get(key) == was, key


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Successor]:
    """Restore the state, and wait until everything that was under way has ended."""
    with receiving() as receiver, Rig(tmp_path_factory.mktemp("successor")) as rig:
        successor = Successor(rig, receiver)
        successor.restore_bucket()
        successor.restore_redis()
        successor.before = {
            "jobs": successor.json_of("jobs"),
            "schedules": successor.json_of("schedule", "list"),
            "rejected": {job: successor.json_of("rejected", job) for job in SAID["rejected"]},
            "aliases": successor.cli("models", "alias", "churn", "champion").stdout,
            "counters": successor.cli("metrics").stdout.splitlines(),
        }
        put_new_accounts(successor)
        successor.start()
        for job in JOBS:
            successor.wait_for_job(job)
        rig.wait(lambda: not successor.keys("jobs/active/"), "the end of every marker")
        rig.wait(lambda: not rig.messages() and not rig.redis.hlen("unacked"), "a queue without messages")
        successor.ended = successor.jobs()
        yield successor


def put_new_accounts(successor: Successor) -> None:
    """Add an object with other customers to the input of the schedules."""
    frame = successor.frame(ACCOUNTS[0])
    sink = io.BytesIO()
    frame.assign(customer=frame["customer"] + 500, bill=frame["bill"] + 1).to_parquet(sink, index=False)
    successor.s3.put_object(Bucket=BUCKET, Key=NEW, Body=sink.getvalue())


def without(names: set[str], said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in names}


def latest_new_year() -> datetime:
    """Return the latest slot of the schedules, which is on 1 January at three o'clock in Berlin."""
    now = datetime.now(UTC)
    slot = datetime(now.year, 1, 1, 2, tzinfo=UTC)
    return slot if slot <= now else slot.replace(year=now.year - 1)


def test_the_command_line_says_what_the_earlier_release_said(after: Successor) -> None:
    now = after.before
    # The command line lists each job with all the values that the earlier release showed
    assert [job["job_id"] for job in now["jobs"]] == [job["job_id"] for job in SAID["jobs"]][::-1]
    for job, then in zip(now["jobs"][::-1], SAID["jobs"], strict=True):
        passing = {"seconds"} if then["state"] in ("running", "submitted") else set()
        assert without(passing, then).items() <= job.items()
    # The command line says why rows were rejected
    for job, then in SAID["rejected"].items():
        assert {name: now["rejected"][job][name] for name in then} == then
    # The command line lists the schedules, and how many of their jobs wait
    for schedule, then in zip(now["schedules"], SAID["schedules"], strict=True):
        assert without({"next"}, then).items() <= schedule.items()
        assert schedule["next"].endswith("-01-01T03:00:00+01:00")
        assert datetime.fromisoformat(schedule["next"]) > datetime.now(UTC)
    # The command line shows the history of an alias, and the counters of the earlier release
    assert now["aliases"].split() == SAID["aliases"].split()
    assert SAID["counters"]
    assert set(SAID["counters"]) <= set(now["counters"])
    # And the exit code of `scoreline status` says how a job ended
    assert [after.cli("status", job).returncode for job in ("finished", "to-be-told")] == [3, 0]


def test_the_signed_models_are_what_was_published(after: Successor) -> None:
    verified = after.cli("models", "verify", "--all")
    assert verified.returncode == 0, verified.stderr
    assert set(re.findall(r"churn@\S+Z-[0-9a-f]{5}", verified.stdout)) == {job["model"] for job in SAID["jobs"]}


@pytest.mark.parametrize("job", JOBS)
def test_unfinished_jobs_end_with_every_row_once(after: Successor, job: str) -> None:
    after.verify(after.ended[job], *JOBS[job])


def test_parts_that_were_written_are_not_written_again(after: Successor) -> None:
    after.verify_kept(f"{RESULTS}/job_id=under-way/")
    after.verify_kept(f"{RESULTS}/job_id=arranging/region=")
    after.verify_kept(f"{RESULTS}/job_id=arranging/_manifest.json")
    assert after.keys(f"{RESULTS}/job_id=arranging/_parts/") == []
    # All objects of jobs that had ended are unchanged, and so are all inputs, plans and models
    for job in ("finished", "to-be-told", "yearly-20250101T020000Z"):
        after.verify_kept(f"{RESULTS}/job_id={job}/")
        after.verify_kept(f"jobs/{job}/")
    for prefix in ("customers/", "branch/", "few/", "accounts/", "models/", "jobs/under-way/", "jobs/submitted/"):
        after.verify_kept(prefix)


def test_every_message_that_was_left_was_understood(after: Successor) -> None:
    log = after.logs()
    assert "unregistered" not in log
    for message, head in after.messages.items():
        if head["expires"] is None:  # messages of beat have an expiry, and have expired
            assert f"{head['task']}[{message}] succeeded" in log, head
    names = "plan score_part finalize events score_staged score_records submit status reconcile tick"
    assert {head["task"].removeprefix("scoreline.") for head in after.messages.values()} == set(names.split())


def test_applications_that_asked_by_message_get_their_answers(after: Successor) -> None:
    url = after.rig.environ["REDIS_URL"]
    with application(url, url) as other:
        answers = {
            name: other.AsyncResult(f"{name}-by-name").get(timeout=HANG_S)
            for name in ("score_records", "submit", "status")
        }
    finished = next(job for job in SAID["jobs"] if job["job_id"] == "finished")
    assert answers["status"].items() >= finished.items()
    assert answers["submit"]["job_id"] == "submit-by-name"
    records = SAID["records"]["score_records-by-name"]
    labels, _ = after.model_of(answers["score_records"]["model"], pd.DataFrame(records)[FEATURES])
    assert [(row["customer"], row["prediction"]) for row in answers["score_records"]["results"]] == [
        (row["customer"], label) for row, label in zip(records, labels, strict=True)
    ]


def test_the_scores_of_staged_records_are_returned(after: Successor) -> None:
    rows = RecordsJob(after.rig.client, "records-staged").wait(timeout_s=HANG_S)
    assert [row["customer"] for row in rows] == [row["customer"] for row in SAID["records"]["records-staged"]]


def test_a_notification_that_could_not_be_delivered_is_delivered(after: Successor) -> None:
    events = notifications(after.receiver, "/ended")
    assert {(event["id"], event["type"]) for event in events} == {("to-be-told.1", "job.succeeded")}
    (then,) = (job for job in SAID["jobs"] if job["job_id"] == "to-be-told")
    assert events[0]["data"].items() >= then.items()
    assert after.json("jobs/to-be-told/notice.json")["delivered"] is True


def test_schedules_go_on_where_they_were_and_repeat_no_slot(after: Successor) -> None:
    slot = latest_new_year()
    job = f"yearly-{slot:%Y%m%dT%H%M%SZ}"

    def states() -> list[Any]:
        return [after.json(f"schedules/{name}/state.json") for name in ("yearly", "ledgers")]

    after.wait_for_job(job)
    after.rig.wait(
        lambda: not any(state["current"] or state["pending"] or state["asked"] for state in states()),
        "the end of every slot",
    )
    yearly, ledgers = states()
    # The next slot is the latest one, and its job scores only the object that the earlier release had not scored
    jobs = after.jobs()
    after.verify(jobs[job], (NEW,), set())
    history = [(past["slot"][:4], past["state"]) for past in yearly["history"]]
    missed = [(str(year), "missed") for year in range(2026, slot.year)]
    assert history == [("2025", "succeeded"), *missed, (str(slot.year), "succeeded")]
    # The job under way, the waiting job and the requested job ran once each, in this order
    ran = [past["slot"][:4] for past in ledgers["history"] if past["state"] != "missed"]
    assert ran == ["2023", "2024", "2022"]
    scheduled = [name for name in jobs if name.startswith(("yearly", "ledgers"))]
    assert sorted(scheduled) == sorted(["yearly-20250101T020000Z", job, *(name for name in JOBS if "ledgers" in name)])
    # And a slot that the earlier release ran does not run again on request
    assert "asked for 0 of 1" in after.cli("schedule", "run", "yearly", "--at", "2025-01-01T03:00").stdout


@pytest.mark.parametrize(("job", "options"), [("failed-part", ()), ("over-budget", ("--max-rejected", "5%"))])
def test_a_job_that_had_failed_is_resumed_and_ends(after: Successor, job: str, options: tuple[str, ...]) -> None:
    assert after.cli("status", job).returncode == 1
    resumed = after.cli("resume", job, *options, "--watch")
    assert resumed.returncode == 3, resumed.stderr
    after.verify(after.json_of("status", job), ("branch/a.parquet", "branch/b.parquet"), {1003, 1050})
    after.verify_kept(f"{RESULTS}/job_id={job}/")


def test_rows_that_were_rejected_are_scored_with_the_version_that_takes_them(after: Successor) -> None:
    again = after.cli("resume", "finished", "--rejected", "--watch")
    # one row is rejected again, because it contains a text that is not a number
    assert again.returncode == 3, again.stderr
    status = after.json_of("status", "finished-rejected-1")
    assert (status["rows"], status["rejected"]) == (1, 1)
    written = after.objects(f"{RESULTS}/job_id=finished-rejected-1/")
    scored = after.scored({key.removeprefix(f"{RESULTS}/"): body for key, (body, _) in written.items()})
    assert scored["customer"].tolist() == [1250]
    assert status["model"] == next(job["model"] for job in SAID["jobs"] if job["job_id"] == "submitted")
    there = after.frame("few/b.parquet").set_index("customer").loc[[1250], FEATURES]
    assert scored["prediction"].tolist() == after.model_of(status["model"], there)[0]


def test_jobs_end_by_the_bucket_alone_if_redis_was_emptied(tmp_path: Path) -> None:
    # Given a Redis that was emptied while a new release was deployed
    with receiving() as receiver, Rig(tmp_path) as rig:
        successor = Successor(rig, receiver)
        successor.restore_bucket()
        put_new_accounts(successor)
        # When the next release starts
        successor.start()
        # Then the next release completes the jobs that the bucket describes
        for job in WITHOUT_REDIS:
            successor.wait_for_job(job)
            successor.verify(rig.client.status(job).to_dict(), *JOBS[job])
        successor.verify_kept(f"{RESULTS}/job_id=under-way/")
        rig.wait(lambda: notifications(receiver, "/ended"), "the notification")
