"""Scores records that an application passes to it: puts them into the bucket, and returns their scores.

A record is one row that is not in an object yet. Once the records are staged, their job is like any other. This room
imports `job`, `dispatch`, `inputs` and `rejects`. Its modules `job` and `table` work with `requirements.txt` alone.
"""
