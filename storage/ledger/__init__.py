"""The ledger of running jobs: which parts are done, in flight and next.

Code that keeps this state, and the Lua scripts that change it atomically, live here; code that decides what a job does
next does not. It imports `scoreline.storage.errors`, and redis in `redis_ledger` alone.
"""
