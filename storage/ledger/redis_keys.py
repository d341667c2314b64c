"""The names of the ledger's keys in Redis.

A Redis cluster stores keys on the same server if the texts in their braces are equal. The scripts that share the
processes among jobs access the keys of several jobs, so the ledger needs a server that stores all of them.
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

    The names are those of earlier releases, which may run beside this one.

    >>> of_job("scores", "nightly-1", "state")
    'scoreline:{scores/nightly-1}:state'
    """
    return of_bucket(f"{bucket}/{job_id}", what)


def object_of_step(step: str) -> str:
    """Return the field, among the steps of a job, of the object that a step or a part reads (see ``step.lua``).

    >>> object_of_step("plan")
    'object plan'
    """
    return f"object {step}"
