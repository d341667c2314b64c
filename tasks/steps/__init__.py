"""Runs the steps of a job in a worker process: plan, score a part, arrange, finalize.

Each step is a function that may run twice, in any process and at any moment. Code that needs no engine belongs to a
room below. It imports every room below it, and no Celery.
"""
