"""The ledger of running jobs: what is done, under way, and next. Rebuildable, kept in Redis."""
