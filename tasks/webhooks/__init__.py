"""Notifies other systems when jobs end: checks the address, sends a signed request, and records the delivery.

This package contains all code that contacts other systems when a job ends. The package imports `job` and `dispatch`,
and works with `requirements.txt` alone.
"""
