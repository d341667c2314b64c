"""Reads the rows of a job from PostgreSQL, once, and stages them as Parquet files of the job.

`queries` finds the query that a job names, `statement` binds its parameters, `types` says how a column is read,
`reading` streams the rows, and `staging` writes them. From then on, the job reads these files like any other input.
"""
