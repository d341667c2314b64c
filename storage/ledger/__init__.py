"""The ledger of running jobs: which parts are done, in flight and next.

This package contains the code that stores the ledger, and the Lua scripts that change it atomically. It does not
contain the code that decides what a job does next. It imports `scoreline.storage.errors`; only `redis_ledger` imports
redis.
"""
