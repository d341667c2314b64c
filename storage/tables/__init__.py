"""Tables in object storage: Parquet, CSV, JSON Lines and Arrow IPC behind one interface.

This package contains the code that finds and decodes the rows of an object and that encodes Parquet, but no code that
depends on the input of a model. It imports `scoreline.storage.objects` and pyarrow. `base` and `options` do not need
pyarrow.
"""
