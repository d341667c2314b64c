"""Embedded services for development, demonstrations and tests. Needs `dev-requirements.txt`."""
