"""Reads what the pages show: jobs, schedules, models, workers and the backlog, with few requests.

Many people look at the same page at once. Everything is therefore read through one `SharedCache` of the process, and
documents that do not change are read once. This package knows no Django, and works with `requirements.txt` alone,
except the module `samples`, which needs pyarrow.
"""
