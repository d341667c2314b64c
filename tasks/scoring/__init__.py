"""Scores a batch of rows in memory with a loaded model.

This room contains pure functions of arrays, tables and a loaded bundle. Stores, ledgers and jobs belong elsewhere. It
imports `scoreline.storage.models` and `scoreline.storage.tables`, and no other room.
"""
