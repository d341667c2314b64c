"""Scores a batch of rows in memory with a loaded model.

Pure functions of arrays, tables and a loaded bundle live here. Stores, ledgers and jobs do not enter. It imports
`scoreline.storage.models` and `scoreline.storage.tables`, and no other room.
"""
