"""Object stores: Cloudflare R2 and a local directory behind one interface.

This package contains the code that reads, writes and lists objects by key, but no code that interprets their bytes. The
package imports `scoreline.storage.errors` and `scoreline.storage.settings`; only `r2` imports boto3.
"""
