"""What a small job of records carries through the ledger, so that a worker reads none of it from the bucket.

Works with `requirements.txt` alone.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.waiting import ALIKE_CHARS
from scoreline.storage.typed_json import MALFORMED, build, decode_object
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.uris import parse_uri

MAX_CARRIED_BYTES = 16 << 10
"""Maximum size of compressed records that are carried."""
MAX_CARRIED_ROWS = 256
"""Maximum number of records that are carried. They are scored by one process, however slow the model is."""


def is_small(packed: bytes, rows: int, spec: JobSpec) -> bool:
    """Return whether the records of a job are so few that one part reads them as the application has written them.

    The plan of such a job depends on nothing that may change, so that each process makes the same plan.
    """
    return len(packed) <= MAX_CARRIED_BYTES and rows <= min(MAX_CARRIED_ROWS, spec.part_rows or MAX_CARRIED_ROWS)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A job of records: its document, and its records."""

    document: str
    """The content of ``job.json``. The metadata of the job's marker contain its digest."""
    records: bytes
    """The records, as `pack` writes them. The document contains the digest of their JSON form."""
    etag: str
    """ETag of the object with the records."""
    reader: str = ""
    """The reader of the job's answer (see `Answers`); empty if nobody waits."""

    @property
    def sha256(self) -> str:
        """Digest of the document."""
        return sha256_hex(self.document.encode())

    def job(self) -> Job:
        """Return the job; raises one of `MALFORMED` or `InvalidRequest`."""
        return Job.from_json(self.document.encode())

    def to_text(self, job: Job, columns: object) -> str:
        """Encode. Jobs that can be scored together have the same beginning of `ALIKE_CHARS` characters.

        Parameters
        ----------
        job : Job
            The job in the document.
        columns : object
            The names and types of the records' columns, as JSON values.
        """
        spec = job.spec
        alike = [job.model.ref, job.model.manifest_sha256, spec.method, spec.keep, spec.features, columns]
        body = {
            "document": self.document,
            "records": b64encode(self.records).decode(),
            "etag": self.etag,
            "reader": self.reader,
        }
        return f"{sha256_hex(json.dumps(alike).encode())[:ALIKE_CHARS]}{json.dumps(body, ensure_ascii=False)}"

    @classmethod
    def of(cls, text: str) -> Carried | None:
        """Decode; None if the text is empty or malformed. The text is untrusted."""
        try:
            raw = build(_Body, decode_object(text[ALIKE_CHARS:].encode())) if text else None
            if raw is None:
                return None
            records = b64decode(raw.records, validate=True)
        except MALFORMED:
            return None
        return cls(document=raw.document, records=records, etag=raw.etag, reader=raw.reader)


@dataclass(frozen=True, kw_only=True)
class _Body:
    document: str
    records: str
    etag: str
    reader: str = ""


def records_key(job: Job, bucket: str) -> tuple[str, str] | None:
    """Return the key of the records that a job reads, and their digest; None if the input of the job is not records."""
    where, key = parse_uri(job.spec.inputs[0])
    sha256 = keys.records_digest(job.spec.job_id, key) if where == bucket else None
    return None if sha256 is None else (keys.records(job.spec.job_id, sha256), sha256)
