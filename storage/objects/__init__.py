"""Object stores: Cloudflare R2 and a local directory behind one contract.

Code that reads, writes or lists bytes under a key lives here; code that knows what the bytes mean does not. It imports
`scoreline.storage.errors` and `scoreline.storage.settings`, and boto3 in `r2` alone.
"""
