"""The process: Celery app, model cache, control commands, command line."""
