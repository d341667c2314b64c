"""Runs the steps of a job in a worker process: plan, score a part, arrange, finalize.

Each step is a function that may run more than once, in any process and at any time. Code that needs no engine belongs
in a lower room. This room imports all lower rooms, but not Celery.
"""
