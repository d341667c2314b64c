"""Embedded services for development, demonstrations and tests.

What replaces Redis, R2 and a deployed worker on one machine lives here, and nothing that a deployment needs may enter.
All modules except `demo` may import packages of dev-requirements.txt; the tests and ``scoreline dev`` import them.
"""
