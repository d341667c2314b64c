"""What moves a job on without a model: submission, the queue, leases, status, resume, outcome and the reconciler.

Whatever sends a message or asks the ledger lives here. No table is read and no row is scored. It imports the room `job`
and works with `requirements.txt` alone.
"""
