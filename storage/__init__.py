"""Everything that stores bytes: objects, models, tables, and the ledger of running jobs.

Code that reads or writes the bucket or Redis lives here; code that knows what a job is does not. It imports no Celery
and nothing from `scoreline.tasks` or `scoreline.worker`.
"""
