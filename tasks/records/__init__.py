"""Scores records that an application has in memory: writes them to the bucket, and returns their scores.

A record is one row in the memory of an application. Once the records are in the bucket, their job runs like any other
job. This room imports `job`, `dispatch`, `inputs` and `rejects`. The modules `records.job` and `records.table` work
with `requirements.txt` alone.
"""
