"""Runs jobs at fixed times: reads the schedule file, finds the slots that are due, and submits their jobs.

This package contains the code that depends on the time of day. The package imports `client`, which submits and cancels
jobs, and works with `requirements.txt` alone.
"""
