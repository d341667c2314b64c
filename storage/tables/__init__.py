"""Tables in object storage: Parquet, CSV, JSON Lines and Arrow IPC behind one interface.

This package finds and decodes the rows of an object, and encodes Parquet. It contains no code that depends on the input
of a model. It may import `scoreline.storage.objects` and pyarrow. The modules `base` and `options` do not need pyarrow.
"""
