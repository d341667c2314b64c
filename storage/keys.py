"""The layout of the bucket: every key that Scoreline writes is spelled here, and every name is checked here."""

from __future__ import annotations

import re

from scoreline.storage.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{5}")
_RECORDS = re.compile(r"jobs/(?P<job_id>[^/]+)/records-(?P<sha256>[0-9a-f]{64})\.parquet")

JOBS_ACTIVE = "jobs/active/"
MODELS = "models/"
SCHEDULES = "schedules.toml"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What stands for no value in the name of a folder, wherever there are folders by the values of a column."""
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{}\[\]^]")
PROBES = "_scoreline-doctor-"
"""What ``scoreline doctor`` writes and removes; no folder, which a directory store would keep."""


def check_name(kind: str, name: str) -> str:
    """Return `name` where it is safe as one step of a key, else raise `InvalidRequest`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{kind} {name!r} is not a valid name: use up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return name


def is_version(text: str) -> bool:
    """Whether `text` has the form of a model version, ``YYYYMMDDThhmmssZ-<5 hex>``.

    >>> is_version("20261101T120000Z-0a1b2"), is_version("champion")
    (True, False)
    """
    return bool(_VERSION.fullmatch(text))


def model_folder(name: str) -> str:
    """Folder of all versions and aliases of a model."""
    return f"{MODELS}{check_name('model', name)}/"


def version_folder(name: str, version: str) -> str:
    """Folder of one model version."""
    return f"{model_folder(name)}{check_name('version', version)}/"


def manifest(name: str, version: str) -> str:
    """Manifest of a model version: the version exists once this exists."""
    return f"{version_folder(name, version)}manifest.json"


def signature(name: str, version: str) -> str:
    """Signatures of a model version's manifest."""
    return f"{version_folder(name, version)}manifest.sig"


def pins_entry(name: str, version: str) -> str:
    """Return the key that makes a version an entry of a `pins` board."""
    return f"{version_folder(name, version)}data.txt"


def artifact(name: str, version: str, file: str) -> str:
    """Return the key of one file of a model version."""
    return f"{version_folder(name, version)}{check_name('artifact', file)}"


def aliases_folder(name: str) -> str:
    """Folder of a model's aliases."""
    return f"{model_folder(name)}aliases/"


def alias(name: str, alias: str) -> str:
    """Return the key of an alias of a model."""
    return f"{aliases_folder(name)}{check_name('alias', alias)}.json"


def job(job_id: str) -> str:
    """Spec and pinned model of a job."""
    return f"jobs/{check_name('job id', job_id)}/job.json"


def records(job_id: str, sha256: str) -> str:
    """Return the key of the records that a job was submitted with, named for what is in them."""
    return f"jobs/{check_name('job id', job_id)}/records-{sha256}.jsonl.gz"


def records_table(job_id: str, sha256: str) -> str:
    """Return the key of the same records as Parquet, which is that job's input."""
    return f"jobs/{check_name('job id', job_id)}/records-{sha256}.parquet"


def records_bulk(job_id: str, sha256: str) -> str:
    """Return the key of records that came as Parquet, which are that job's input as they are."""
    return f"jobs/{check_name('job id', job_id)}/bulk-{sha256}.parquet"


def is_records_bulk(job_id: str, key: str) -> bool:
    """Whether a key is that of a job's records that came as Parquet.

    >>> is_records_bulk("a", records_bulk("a", "f" * 64)), is_records_bulk("a", "in/bulk-1.parquet")
    (True, False)
    """
    return key.startswith(f"jobs/{job_id}/bulk-")


def records_named(job_id: str, key: str) -> str | None:
    """Return the digest in the key of a job's records as Parquet; None where it is another key.

    >>> records_named("a", records_table("a", "f" * 64)) == "f" * 64, records_named("b", records_table("a", "f" * 64))
    (True, None)
    """
    match = _RECORDS.fullmatch(key)
    return match["sha256"] if match and match["job_id"] == job_id else None


def answer(job_id: str) -> str:
    """Return the key of the results of a job of records, for whoever cannot read Parquet."""
    return f"jobs/{check_name('job id', job_id)}/results.jsonl.gz"


def plan(job_id: str) -> str:
    """Plan of a job."""
    return f"jobs/{check_name('job id', job_id)}/plan.json.gz"


def outcome(job_id: str) -> str:
    """Terminal state of a job."""
    return f"jobs/{check_name('job id', job_id)}/outcome.json"


def run(job_id: str) -> str:
    """Which run of a job counts, where it was resumed."""
    return f"jobs/{check_name('job id', job_id)}/run.json"


def notice(job_id: str) -> str:
    """Return the key of the record that somebody was told of a job's end."""
    return f"jobs/{check_name('job id', job_id)}/notice.json"


def active(job_id: str) -> str:
    """Marker that is there from submit to outcome, and until whoever wants to know was told."""
    return f"{JOBS_ACTIVE}{check_name('job id', job_id)}"


def schedule_state(name: str) -> str:
    """Return the key of what a schedule has done."""
    return f"schedules/{check_name('schedule', name)}/state.json"


def schedule_seen(name: str) -> str:
    """Return the key of the names of the objects that a schedule has scored."""
    return f"schedules/{check_name('schedule', name)}/seen.json.gz"


def probe(name: str) -> str:
    """Return the key of an object of ``scoreline doctor``."""
    return f"{PROBES}{check_name('probe', name)}"


def output_folder(prefix: str, job_id: str) -> str:
    """Folder of one job's results below the output `prefix`."""
    return f"{prefix}job_id={check_name('job id', job_id)}/"


def result_part(folder: str, part: int) -> str:
    """Results of one part: five digits, more where a job has 100,000 parts and more."""
    return f"{folder}part-{part:05d}.parquet"


def parts_folder(folder: str) -> str:
    """Folder of the parts of a job whose results are arranged once all are there."""
    return f"{folder}_parts/"


def partition_folder(folder: str, column: str, value: str | None) -> str:
    """Folder of the results with one value of a column, as Hive names it; no value and an empty text share one.

    >>> partition_folder("", "day", "2026/11"), partition_folder("", "day", None)
    ('day=2026%2F11/', 'day=__HIVE_DEFAULT_PARTITION__/')
    """
    return f"{folder}{_escape(column)}={_escape(value) if value else NO_VALUE}/"


def _escape(text: str) -> str:
    """Escape what Hive and Spark escape, which they and every other reader undo; what is not ASCII stays."""
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)


def rejected_folder(folder: str) -> str:
    """Folder of the rows that could not be scored."""
    return f"{folder}_rejected/"


def rejected_part(folder: str, part: int) -> str:
    """Rows of one part that could not be scored."""
    return f"{rejected_folder(folder)}part-{part:05d}.parquet"


def part_number(key: str) -> int:
    """Return the number of the part that an object of results, or of rejected rows, is of.

    >>> part_number("out/job_id=a/_rejected/part-00017.parquet")
    17
    """
    return int(key.rpartition("part-")[2].removesuffix(".parquet"))


def results_manifest(folder: str) -> str:
    """One entry a part."""
    return f"{folder}_manifest.json"


def success(folder: str) -> str:
    """Last object of a complete job."""
    return f"{folder}_SUCCESS"
