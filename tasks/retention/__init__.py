"""Removes the results of old jobs and old model versions.

`policies` says how long results are kept. `due_jobs` finds the jobs whose time is over, `protection` decides which of
them must stay nevertheless, `removal` removes one job, and `rounds` removes all of them, in pieces. `versions` removes
old versions of models.
"""
