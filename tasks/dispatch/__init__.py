"""Moves jobs forward without a model: submission, the queue, leases, status, resume, outcome and the reconciler.

This package contains the code that sends messages or queries the ledger. Code that reads tables or scores rows belongs
elsewhere. The package imports the room `job` and works with `requirements.txt` alone.
"""
