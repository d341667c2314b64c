"""Bytes at rest: objects, models, tables, and the ledger of running jobs.

What reads or writes the bucket or Redis lives here. Code that knows what a job is does not enter. It imports no Celery
and nothing of `scoreline.tasks` or `scoreline.worker`.
"""
