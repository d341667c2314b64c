"""Reads the rows of a job from PostgreSQL, once, and stages them as Parquet files of the job.

`queries` finds the query that a job names, `statement` binds its parameters, `types` says how a column is read,
`pieces` cuts the rows, `reading` and `readers` stream them, `decoding` and `binary_rows` decode them, and `staging`
writes them. From then on, the job reads these files like any other input.
"""
