"""Tables in object storage: Parquet, CSV, JSON Lines and Arrow IPC behind one contract.

Code that finds rows in an object, decodes them, or encodes Parquet lives here; code that knows what a model takes does
not. It imports `scoreline.storage.objects` and pyarrow, but `base` and `options` do without pyarrow.
"""
