"""Notifies other systems when jobs end: checks the address, sends a signed request, and records the delivery.

All code that sends something out of the deployment when a job ends lives here. It imports `job` and `dispatch`, and
works with `requirements.txt` alone.
"""
