"""What a job is: spec, plan, scoring, outcome; and the client that submits it."""

from tasks.client import Client, cancel, resume, resume_rejected, status, submit, submit_records, watch

__all__ = ["Client", "cancel", "resume", "resume_rejected", "status", "submit", "submit_records", "watch"]
