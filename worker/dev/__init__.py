"""Embedded services for development, demonstrations and tests.

This package replaces Redis, R2 and a deployed worker on one machine. It must not contain anything that a deployment
needs. All modules except `demo` may import packages of dev-requirements.txt. The tests and ``scoreline dev`` import
these modules.
"""
