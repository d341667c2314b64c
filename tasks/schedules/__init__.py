"""Runs jobs at fixed times: reads the schedule file, finds the slots that are due, and submits their jobs.

Code that depends on the time of day lives here. It imports `client`, which submits and cancels jobs, and works with
`requirements.txt` alone.
"""
