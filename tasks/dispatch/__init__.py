"""Moves jobs forward without a model: submission, the queue, leases, status, resume, outcome and the reconciler.

Code that sends messages or queries the ledger lives here. Reading tables and scoring rows belong elsewhere. It imports
the room `job` and works with `requirements.txt` alone.
"""
