"""Records that an application hands over: how they reach the bucket, and how their scores come back.

A record is one row that is not in an object yet. Once the records are staged, their job is like any other. It imports
`job`, `dispatch`, `inputs` and `rejects`; `job` and `table` work with `requirements.txt` alone.
"""
