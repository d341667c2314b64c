"""Bytes at rest: objects, models, tables, and the ledger of running jobs."""
