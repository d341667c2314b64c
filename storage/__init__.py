"""Storage: objects, models, tables, and the ledger of running jobs.

This package contains the code that reads and writes the bucket and Redis, but no code that depends on jobs. The package
does not import Celery, `scoreline.tasks` or `scoreline.worker`.
"""
