"""Scores a batch of rows in memory with a loaded model.

This room contains pure functions whose arguments are arrays, tables and a loaded bundle. Code for object stores,
ledgers and jobs belongs elsewhere. This room imports `scoreline.storage.models` and `scoreline.storage.tables`, and no
other room.
"""
