"""Storage: objects, models, tables, and the ledger of running jobs.

This package contains the code that reads or writes the bucket or Redis, but no code that depends on what a job is. It
does not import Celery, `scoreline.tasks` or `scoreline.worker`.
"""
