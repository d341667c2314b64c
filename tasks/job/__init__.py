"""Describes a job as data: its options, spec, plan and documents, and the locations of its files.

This room contains plain values that have a JSON form, and the pure functions that make them. Code that scores, sends or
waits belongs elsewhere. This room imports `scoreline.storage` and no other room, and works with `requirements.txt`
alone.
"""
