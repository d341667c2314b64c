"""Rows in, scores out: what a model makes of a batch in memory.

Pure functions of arrays, tables and a loaded bundle live here. No store, no ledger and no job enters. It imports
`scoreline.storage.models` and `scoreline.storage.tables`, and no other room.
"""
