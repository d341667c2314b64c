"""What the rows and scores of a job look like, counted while the job is scored.

A profile consists of counts and exact sums, so that the profiles of parts can be added in any order. `profile` holds
the types and works with `requirements.txt` alone. `counting` counts tables, and needs NumPy and Arrow. This room knows
no object store and no ledger, and imports only `storage`.
"""
