"""The names of the ledger's keys in Redis.

A Redis cluster stores keys on the same server if the texts in their braces are equal.
"""

from __future__ import annotations


def of_bucket(bucket: str, what: str) -> str:
    """Return a key for data that all jobs of a bucket share.

    >>> of_bucket("scores", "tick")
    'scoreline:{scores}:tick'
    """
    return f"scoreline:{{{bucket}}}:{what}"


def of_job(bucket: str, job_id: str, what: str) -> str:
    """Return a key for data of one job.

    All keys of a job are on the same server of a cluster, because scripts access several of them at once.

    >>> of_job("scores", "nightly-1", "state")
    'scoreline:{scores/nightly-1}:state'
    """
    return of_bucket(f"{bucket}/{job_id}", what)
