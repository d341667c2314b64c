"""The layout of the bucket: build every key that Scoreline writes, and check the names in each key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from scoreline.storage.errors import InvalidRequest

MAX_NAME = 100
"""Maximum number of characters in the id of a job, and in the name of a model, an alias or a schedule."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{5}")
_JOB_FOLDER = re.compile(r"(?P<output>(?:.*?/)??)job_id=[^/]+/")
_RECORDS_TEXT = re.compile(r"jobs/[^/]+/records-[0-9a-f]{64}\.jsonl\.gz")
_RECORDS = re.compile(r"jobs/(?P<job_id>[^/]+)/records-(?P<sha256>[0-9a-f]{64})\.parquet")
_SLASHES = re.compile(r"/+")
_SLOT_JOB = re.compile(r".+-(?P<slot>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?")
_PART = re.compile(
    r"/(?:part-(?P<number>[0-9]{5,18})|rejected-(?P<of>[0-9]{5,18})(?:-(?P<digest>[0-9a-f]{16}))?)\.parquet\Z"
)

AUDIT = "audit/"
_AUDIT_DAY = re.compile(r"audit/\d{4}-\d{2}-\d{2}/")
_DAY_MS = 86_400_000
_TARGET_CHARS = 120
"""Maximum number of characters of a target in the key of an audit line. A file name has at most 255 bytes."""
JOBS = "jobs/"
JOBS_ACTIVE = "jobs/active/"
JOBS_INDEX = "jobs/index/"
JOBS_INDEX_BUILT = "jobs/index/built.json"
ALERTS = "jobs/_alerts/"
"""Alerts that are not sent yet. The id of a job cannot begin with an underscore."""
ALERTS_SENT = "jobs/_alerts-sent/"
RESERVED_JOB_IDS = frozenset({"active", "index"})
"""Names of folders in ``jobs/`` that do not belong to a job."""
MODELS = "models/"
SCHEDULES = "schedules.toml"
QUERIES = "queries.toml"
SCHEDULE_STATES = "schedules/"
SCHEDULES_IN_FORCE = "schedules/in-force.json"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Name that stands for a missing value in the folder names of partitioned results, as in Hive."""
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{}\[\]^]")
PROBES = "_scoreline-doctor-"
"""Prefix of the objects that ``scoreline doctor`` writes and deletes. The prefix does not end with a slash, because a
directory store would then leave an empty folder behind."""


def is_reserved(key: str) -> bool:
    """Return whether a key of the main bucket is reserved for Scoreline's documents and models.

    In ``audit/``, only the folders of days are reserved, because a bucket may have had other objects there before.

    >>> is_reserved("jobs/a/job.json"), is_reserved("//models/"), is_reserved("results/jobs/a"), is_reserved("jobs")
    (True, True, False, False)
    >>> is_reserved("audit/2026-11-29/"), is_reserved("audit/a.csv")
    (True, False)
    """
    key = _SLASHES.sub("/", key).lstrip("/")
    return key in (SCHEDULES, QUERIES) or key.startswith((JOBS, MODELS, SCHEDULE_STATES)) or bool(_AUDIT_DAY.match(key))


def is_slot_job(job_id: str) -> bool:
    """Return whether a job id has the form that schedules use for the jobs of their slots.

    >>> is_slot_job("nightly-20261125T020000Z-2"), is_slot_job("nightly-20261125T020000Z-rejected-1")
    (True, False)
    >>> is_slot_job("20261125T020000Z-0a1b2c")
    False
    """
    return bool(_SLOT_JOB.fullmatch(job_id))


def schedule_of(job_id: str) -> str:
    """Return the name of the schedule in the id of a slot's job; empty for other ids.

    >>> schedule_of("nightly-20261125T020000Z-2"), schedule_of("20261125T020000Z-0a1b2c")
    ('nightly', '')
    """
    match = _SLOT_JOB.fullmatch(job_id)
    return job_id[: match.start("slot") - 1] if match else ""


def slot_of(job_id: str) -> tuple[datetime, int] | None:
    """Return the slot in the id of a schedule's job, and the number of the job in its slot; None for other ids.

    >>> found = slot_of("nightly-20261125T020000Z-2")
    >>> found[0].isoformat(), found[1]
    ('2026-11-25T02:00:00+00:00', 2)
    >>> slot_of("20261125T020000Z-0a1b2c"), slot_of("nightly-20261325T020000Z")
    (None, None)
    """
    match = _SLOT_JOB.fullmatch(job_id)
    if match is None:
        return None
    try:
        slot = datetime.strptime(f"{match['slot']}+0000", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        return None
    return slot, int(match["number"] or 1)


def is_name(name: str) -> bool:
    """Return whether `name` can be used between the slashes of a key."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def check_name(kind: str, name: str) -> str:
    """Return `name` unchanged if it can be used between the slashes of a key; otherwise raise `InvalidRequest`."""
    if not is_name(name):
        raise InvalidRequest(
            f"{kind} {name!r} is not a valid name: use up to {MAX_NAME} letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit"
        )
    return name


def is_version(text: str) -> bool:
    """Return whether `text` has the form of a model version, ``YYYYMMDDThhmmssZ-<5 hex>``.

    >>> is_version("20261101T120000Z-0a1b2"), is_version("champion")
    (True, False)
    """
    return bool(_VERSION.fullmatch(text))


def model_folder(name: str) -> str:
    """Return the folder that contains all versions and aliases of a model."""
    return f"{MODELS}{check_name('model', name)}/"


def version_folder(name: str, version: str) -> str:
    """Return the folder of a model version."""
    return f"{model_folder(name)}{check_name('version', version)}/"


def manifest(name: str, version: str) -> str:
    """Return the key of a version's manifest. A model version exists as soon as its manifest exists."""
    return f"{version_folder(name, version)}manifest.json"


def signature(name: str, version: str) -> str:
    """Return the key of the signatures of a version's manifest."""
    return f"{version_folder(name, version)}manifest.sig"


def pins_entry(name: str, version: str) -> str:
    """Return the key of the object that makes a version readable as an entry of a `pins` board."""
    return f"{version_folder(name, version)}data.txt"


def removed_version(name: str, version: str) -> str:
    """Return the key of the tombstone of a removed model version."""
    return f"{version_folder(name, version)}removed.json"


def artifact(name: str, version: str, file: str) -> str:
    """Return the key of a file of a model version."""
    return f"{version_folder(name, version)}{check_name('artifact', file)}"


def aliases_folder(name: str) -> str:
    """Return the folder of a model's aliases."""
    return f"{model_folder(name)}aliases/"


def alias(name: str, alias: str) -> str:
    """Return the key of an alias of a model."""
    return f"{aliases_folder(name)}{check_name('alias', alias)}.json"


def job(job_id: str) -> str:
    """Return the key of a job's spec and pinned model."""
    return f"jobs/{check_name('job id', job_id)}/job.json"


def records(job_id: str, sha256: str) -> str:
    """Return the key of the records that were submitted with a job. `sha256` is the digest of the records."""
    return f"jobs/{check_name('job id', job_id)}/records-{sha256}.jsonl.gz"


def is_records(key: str) -> bool:
    """Return whether `records` builds this key for some job.

    >>> is_records(records("a", "f" * 64)), is_records("in/records-1.jsonl.gz")
    (True, False)
    """
    return key.startswith("jobs/") and bool(_RECORDS_TEXT.fullmatch(key))


def records_table(job_id: str, sha256: str) -> str:
    """Return the key of a job's records after conversion to Parquet. The job reads this object as its input."""
    return f"jobs/{check_name('job id', job_id)}/records-{sha256}.parquet"


def records_bulk(job_id: str, sha256: str) -> str:
    """Return the key of records that were submitted as Parquet. The job reads this object directly."""
    return f"jobs/{check_name('job id', job_id)}/bulk-{sha256}.parquet"


def is_records_bulk(job_id: str, key: str) -> bool:
    """Return whether `records_bulk` builds this key for this job.

    >>> is_records_bulk("a", records_bulk("a", "f" * 64)), is_records_bulk("a", "in/bulk-1.parquet")
    (True, False)
    """
    return key.startswith(f"jobs/{job_id}/bulk-")


def records_digest(job_id: str, key: str) -> str | None:
    """Return the digest in a key that `records_table` built for this job, or None for any other key.

    >>> records_digest("a", records_table("a", "f" * 64)) == "f" * 64, records_digest("b", records_table("a", "f" * 64))
    (True, None)
    """
    match = _RECORDS.fullmatch(key)
    return match["sha256"] if match and match["job_id"] == job_id else None


def staged(job_id: str) -> str:
    """Return the key of the document that lists the rows of a job that were read from a database."""
    return f"jobs/{check_name('job id', job_id)}/staged.json"


def staged_folder(job_id: str) -> str:
    """Return the folder of the rows of a job that were read from a database."""
    return f"jobs/{check_name('job id', job_id)}/staged/"


def staged_part(job_id: str, attempt: str, number: int) -> str:
    """Return the key of a file of rows that an attempt has read from a database."""
    return f"{staged_folder(job_id)}{check_name('attempt', attempt)}/part-{number:05d}.parquet"


def answer(job_id: str) -> str:
    """Return the key of a records job's results as JSON Lines, for clients that cannot read Parquet."""
    return f"jobs/{check_name('job id', job_id)}/results.jsonl.gz"


def plan(job_id: str) -> str:
    """Return the key of a job's plan."""
    return f"jobs/{check_name('job id', job_id)}/plan.json.gz"


def outcome(job_id: str) -> str:
    """Return the key of the document that records how a job ended."""
    return f"jobs/{check_name('job id', job_id)}/outcome.json"


def part_failure(job_id: str, part: int) -> str:
    """Return the key of the object that stores why the last attempt at a part failed."""
    return f"jobs/{check_name('job id', job_id)}/failures/{part:05d}.txt"


def claim(job_id: str, run: int) -> str:
    """Return the key of the document that decides how a run of a job ends."""
    return f"jobs/{check_name('job id', job_id)}/claim-{run}.json"


def run(job_id: str) -> str:
    """Return the key of the document that names the current run of a resumed job."""
    return f"jobs/{check_name('job id', job_id)}/run.json"


def review(job_id: str) -> str:
    """Return the key of the document with the latest decision of a person about the results of a job."""
    return f"jobs/{check_name('job id', job_id)}/review.json"


def checked(job_id: str, run: int, block: int) -> str:
    """Return the key of the receipts of a block of parts that the finalizer of a run has checked."""
    return f"jobs/{check_name('job id', job_id)}/checked-{run}-{block:05d}.json.gz"


def delivery(job_id: str) -> str:
    """Return the key of the document that records the delivery of a job's webhook."""
    return f"jobs/{check_name('job id', job_id)}/notice.json"


def load(job_id: str, load_id: str) -> str:
    """Return the key of the document that requests a load of a job's results into a table of a database."""
    return f"jobs/{check_name('job id', job_id)}/load-{check_name('load', load_id)}.json"


def load_progress(job_id: str, load_id: str) -> str:
    """Return the key of the document that says how far a load is."""
    return f"jobs/{check_name('job id', job_id)}/load-{check_name('load', load_id)}-progress.json"


def load_ended(job_id: str, load_id: str) -> str:
    """Return the key of the document that says how a load ended."""
    return f"jobs/{check_name('job id', job_id)}/load-{check_name('load', load_id)}-ended.json"


def load_refused(folder: str, load_id: str, part: int, sha256: str) -> str:
    """Return the key of the rows of a file of results that a table refused. It contains the digest of these rows."""
    return f"{folder}_load/{check_name('load', load_id)}/refused-{part:05d}-{sha256[:16]}.parquet"


def active(job_id: str) -> str:
    """Return the key of a job's marker, which is deleted once the outcome is written and the webhook is settled.

    A webhook is settled when it has been delivered or will not be sent again.
    """
    return f"{JOBS_ACTIVE}{check_name('job id', job_id)}"


def job_index_day(day: str) -> str:
    """Return the folder for the index entries of the jobs that were submitted on a day (in UTC)."""
    return f"{JOBS_INDEX}{day}/"


def job_index(submitted: datetime, model: str, job_id: str) -> str:
    """Return the key of a job's entry in the index. Within a day, newer jobs sort before older ones.

    >>> job_index(datetime.fromisoformat("2026-11-29T18:30:00+00:00"), "churn", "nightly")
    'jobs/index/2026-11-29/19800000~churn~nightly'
    """
    at = submitted.astimezone(UTC)
    return f"{job_index_day(f'{at:%Y-%m-%d}')}{ms_left(at):08d}~{model}~{check_name('job id', job_id)}"


def audit_day(day: str) -> str:
    """Return the folder for the audit lines of a day, such as ``2026-11-29`` (in UTC)."""
    return f"{AUDIT}{day}/"


def is_day(name: str) -> bool:
    """Return whether a folder has the name of a day.

    >>> is_day("2026-11-29"), is_day("2026-11-31"), is_day("active")
    (True, False, False)
    """
    try:
        return datetime.fromisoformat(name).strftime("%Y-%m-%d") == name
    except ValueError:
        return False


def audit_line(at: datetime, token: str, action: str, target: str) -> str:
    """Return the key of an audit line. Within a day, the keys of later lines sort before those of earlier lines.

    The key contains action and target, so that a reader who looks for them can skip other lines without reading them.

    >>> moment = datetime.fromisoformat("2026-11-29T18:30:00+00:00")
    >>> audit_line(moment, "9f3c01d2", "alias.set", "churn@champion")
    'audit/2026-11-29/19800000-9f3c01d2~alias.set~churn@champion.json'
    """
    return f"{audit_day(f'{at:%Y-%m-%d}')}{ms_left(at):08d}-{token}~{action}~{audit_target(target)}.json"


def audit_target(target: str) -> str:
    """Return the target of an audit line as it stands in the key: escaped, and cut if it is very long."""
    return quote(target, safe="@").replace("~", "%7E")[:_TARGET_CHARS]


def time_in_key(day: str, left: str) -> datetime:
    """Return the time in a key that contains `ms_left`, or the beginning of the day if the key was not made that way.

    >>> time_in_key("2026-11-29", "19800000-9f3c01d2").isoformat()
    '2026-11-29T18:30:00+00:00'
    """
    digits = left[:8]
    passed = _DAY_MS - int(digits) if digits.isascii() and digits.isdigit() else 0
    return datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(milliseconds=max(0, passed))


def ms_left(at: datetime) -> int:
    """Return the number of milliseconds from a time to the end of its day, at least 1."""
    passed = ((at.hour * 60 + at.minute) * 60 + at.second) * 1_000 + at.microsecond // 1_000
    return _DAY_MS - passed


def retention_state() -> str:
    """Return the key of the document with the progress of removing old results. No job id begins with ``_``."""
    return f"{JOBS}_retention/state.json"


def retention_clock() -> str:
    """Return the key of an object that is written to read the clock of the store."""
    return f"{JOBS}_retention/clock"


def alert(alert_id: str) -> str:
    """Return the key of an alert that is not sent yet."""
    return f"{ALERTS}{check_name('alert', alert_id)}.json"


def alert_sent(alert_id: str) -> str:
    """Return the key of the object that says that an alert was sent."""
    return f"{ALERTS_SENT}{check_name('alert', alert_id)}"


def schedule_state(name: str) -> str:
    """Return the key of a schedule's state."""
    return f"schedules/{check_name('schedule', name)}/state.json"


def schedule_seen(name: str) -> str:
    """Return the key of the list of objects that a schedule has already scored."""
    return f"schedules/{check_name('schedule', name)}/seen.json.gz"


def probe(name: str) -> str:
    """Return the key of an object that ``scoreline doctor`` writes."""
    return f"{PROBES}{check_name('probe', name)}"


def output_folder(prefix: str, job_id: str) -> str:
    """Return the folder of a job's results below the output `prefix`."""
    return f"{prefix}job_id={check_name('job id', job_id)}/"


def output_of(key: str) -> str | None:
    """Return the output to which the key of a result belongs; None if the key is in no folder of a job.

    >>> output_of("out/job_id=a/day=1/part-00000.parquet"), output_of("out/latest.json"), output_of("job_id=a/x")
    ('out/', None, '')
    """
    match = _JOB_FOLDER.match(key)
    return match["output"] if match else None


def latest(prefix: str) -> str:
    """Return the key of the document that names the accepted run of the output `prefix`."""
    return f"{prefix}latest.json"


def outcomes_folder(prefix: str) -> str:
    """Return the folder with the labels that arrived after the runs of the output `prefix`, and their metrics."""
    return f"{prefix}_outcomes/"


def outcomes(prefix: str) -> str:
    """Return the key of the document that compares the runs of the output `prefix` with labels that arrived later."""
    return f"{outcomes_folder(prefix)}outcomes.json"


def outcome_labels(prefix: str, name: str) -> str:
    """Return the key of a file with labels that arrived later."""
    return f"{outcomes_folder(prefix)}{check_name('labels', name)}"


def result_part(folder: str, part: int) -> str:
    """Return the key of a part's results. The part number has at least five digits, and more from part 100,000 on."""
    return f"{folder}part-{part:05d}.parquet"


def parts_folder(folder: str) -> str:
    """Return the folder in which the parts of a job are stored until they are combined into the final files."""
    return f"{folder}_parts/"


def partition_folder(folder: str, column: str, value: str | None) -> str:
    """Return the folder for all results that have `value` in `column`, named as in Hive.

    Missing values and empty strings share a folder.

    >>> partition_folder("", "day", "2026/11"), partition_folder("", "day", None)
    ('day=2026%2F11/', 'day=__HIVE_DEFAULT_PARTITION__/')
    """
    return f"{folder}{_escape(column)}={_escape(value) if value else NO_VALUE}/"


def _escape(text: str) -> str:
    """Escape the characters that Hive and Spark escape in folder names. Characters outside ASCII stay unchanged."""
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)


def rejected_folder(folder: str) -> str:
    """Return the folder for rejected rows."""
    return f"{folder}_rejected/"


def rejected_part(folder: str, part: int, sha256: str) -> str:
    """Return the key of a part's rejected rows. The beginning of the digest of these rows is a part of the key.

    Two attempts at a part may reject different rows. The digest keeps one attempt from overwriting the rows that
    another attempt has committed.
    """
    return f"{rejected_folder(folder)}rejected-{part:05d}-{sha256[:16]}.parquet"


def former_rejected_parts(folder: str, part: int) -> tuple[str, str]:
    """Return the keys under which earlier releases stored a part's rejected rows, the key of release 0.1.0 last.

    Neither key contains a digest.
    """
    return f"{rejected_folder(folder)}rejected-{part:05d}.parquet", f"{rejected_folder(folder)}part-{part:05d}.parquet"


def part_number(key: str) -> int | None:
    """Return the part number in the key of a part's results or rejected rows; None for any other key.

    >>> part_number(result_part("a/", 17)), part_number(rejected_part("a/", 17, "0123456789abcdef"))
    (17, 17)
    >>> [part_number(key) for key in former_rejected_parts("a/", 17)]
    [17, 17]
    >>> part_number("a/part-17.parquet"), part_number("a/part-00017-0123456789abcdef.parquet")
    (None, None)
    """
    match = _PART.search(key)
    number = (match["number"] or match["of"]) if match else None
    return int(number) if number is not None and number == f"{int(number):05d}" else None


def rejects_digest(key: str) -> str | None:
    """Return the beginning of the digest in the key of a part's rejected rows; None if the key contains no digest.

    >>> rejects_digest(rejected_part("a/", 17, "0123456789abcdef" + 48 * "0")), rejects_digest(result_part("a/", 17))
    ('0123456789abcdef', None)
    """
    match = _PART.search(key)
    return match["digest"] if match else None


def results_manifest(folder: str) -> str:
    """Return the key of the results manifest, which contains one entry per part."""
    return f"{folder}_manifest.json"


def results_report(folder: str) -> str:
    """Return the key of the page that reports on a job."""
    return f"{folder}_report.html"


def results_profile(folder: str) -> str:
    """Return the key of the profile of a job's rows and scores."""
    return f"{folder}_profile.json"


def carry_part(folder: str, part: int, sha256: str) -> str:
    """Return the key of a part's scores that a later job may carry over. The beginning of their digest is a part of it.

    >>> carry_part("a/", 17, "0123456789abcdef" + 48 * "0")
    'a/_carry/scores-00017-0123456789abcdef.arrow'
    """
    return f"{folder}_carry/scores-{part:05d}-{sha256[:16]}.arrow"


def challenger_folder(folder: str) -> str:
    """Return the folder for the results of the challenger of a job."""
    return f"{folder}_challenger/"


def challenger_failure(folder: str, part: int) -> str:
    """Return the key of the document that says why the challenger of a job has not scored a part."""
    return f"{challenger_folder(folder)}failed-{part:05d}.json"


def comparison(folder: str) -> str:
    """Return the key of the comparison of the two versions that a job with a challenger scores with."""
    return f"{challenger_folder(folder)}_comparison.json"


def success(folder: str) -> str:
    """Return the key of the marker that is written last, after all results of a job are complete."""
    return f"{folder}_SUCCESS"
