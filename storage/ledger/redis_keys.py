"""The names of the ledger's keys in Redis. In a cluster, the text in braces decides which server keeps a key."""

from __future__ import annotations


def of_bucket(bucket: str, what: str) -> str:
    """Return the key of something that all jobs of a bucket share.

    >>> of_bucket("scores", "tick")
    'scoreline:{scores}:tick'
    """
    return f"scoreline:{{{bucket}}}:{what}"


def of_job(bucket: str, job_id: str, what: str) -> str:
    """Return one of the keys of a job, which are all kept in the same place, because scripts use them together.

    >>> of_job("scores", "nightly-1", "state")
    'scoreline:{scores/nightly-1}:state'
    """
    return of_bucket(f"{bucket}/{job_id}", what)
