"""The ledger of running jobs: which parts are done, in flight and next.

This package contains the code that stores the ledger, and the Lua scripts that change it atomically. The code that
decides the next step of a job belongs elsewhere. The package imports `scoreline.storage.errors`; only `redis_ledger`
imports redis.
"""
