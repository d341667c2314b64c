"""Where ``celery -A scoreline`` finds the app."""

from scoreline.worker.celery import app

__all__ = ["app"]
