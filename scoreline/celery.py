"""Provides the app for ``celery -A scoreline``."""

from scoreline.worker.celery import app

__all__ = ["app"]
