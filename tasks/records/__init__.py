"""Scores records that an application has in memory: writes them to the bucket, and returns their scores.

A record is one row in the memory of an application. Once the records are in the bucket, their job runs like any other
job. This room imports `job`, `dispatch`, `inputs` and `rejects`. Its modules `job` and `table` work with
`requirements.txt` alone.
"""
