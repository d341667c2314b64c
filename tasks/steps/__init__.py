"""The steps of a job that a worker process runs: plan, score a part, arrange, finalize.

Each step is a function that may run twice, anywhere and at any moment. What needs no engine belongs to a room below. It
imports every room below it, and no Celery.
"""
