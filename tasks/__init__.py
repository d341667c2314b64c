"""What a job is: spec, plan, scoring, outcome; and the client that submits it."""

from tasks.client import Client, status, submit, watch

__all__ = ["Client", "status", "submit", "watch"]
